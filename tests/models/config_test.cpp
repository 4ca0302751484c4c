// SPDX-License-Identifier: Apache-2.0
#include <srformer/models/architectures.hpp>

#include "support/catch.hpp"
#include "support/paper_config.hpp"

using namespace srformer;
using Catch::Matchers::ContainsSubstring;
using nlohmann::json;

namespace {

const std::string path = "here/config.json";

/// The least that a T5 needs.
json small() {
  return {{"model_type", "t5"}, {"vocab_size", 40}, {"d_model", 12}, {"d_kv", 4},
          {"d_ff", 20},         {"num_layers", 2},  {"num_heads", 3}};
}

T5Config read(const json& config) { return config_from_json<T5Config>(config, path); }

/// The least that a BART needs.
json small_bart() {
  return {{"model_type", "bart"},         {"vocab_size", 40},      {"d_model", 12},
          {"encoder_layers", 2},          {"decoder_layers", 3},   {"encoder_attention_heads", 4},
          {"decoder_attention_heads", 6}, {"encoder_ffn_dim", 20}, {"decoder_ffn_dim", 24}};
}

BartConfig read_bart(const json& config) { return config_from_json<BartConfig>(config, path); }

template <class Call>
std::string config_refusal(Call call) {
  try {
    call();
  } catch (const io_error& error) {
    return error.what();
  }
  return "accepted";
}

std::string refusal(const json& config) {
  return config_refusal([&] { cross_of(read(config)); });
}

std::string refusal(const char* key, const json& value) {
  json config = small();
  config[key] = value;
  return refusal(config);
}

std::string cross_refusal(const char* key, const json& value) {
  return refusal("cross_attention", {{"variant", "segmented_recurrent"}, {key, value}});
}

std::string bart_refusal(const json& config) {
  return config_refusal([&] { cross_of(read_bart(config)); });
}

std::string bart_refusal(const char* key, const json& value) {
  json config = small_bart();
  config[key] = value;
  return bart_refusal(config);
}

}  // namespace

TEST_CASE("what config.json leaves out is as in transformers") {
  const T5Config c = read(small());
  CHECK(c.vocab_size == 40);
  CHECK(c.d_model == 12);
  CHECK(c.d_kv == 4);
  CHECK(c.d_ff == 20);
  CHECK(c.num_layers == 2);
  CHECK(c.num_decoder_layers == 2);
  CHECK(c.num_heads == 3);
  CHECK(c.relative_attention_num_buckets == 32);
  CHECK(c.relative_attention_max_distance == 128);
  CHECK(c.dropout_rate == 0.1);
  CHECK(c.layer_norm_epsilon == 1e-6);
  CHECK(c.initializer_factor == 1);
  CHECK(c.activation == Activation::relu);
  CHECK_FALSE(c.gated);
  CHECK(c.tie_word_embeddings);
  CHECK(c.scale_decoder_outputs);
  CHECK(c.pad_token_id == 0);
  CHECK(c.eos_token_id == 1);
  CHECK(c.decoder_start_token_id == 0);
  const CrossAttentionOptions o = cross_of(c);
  CHECK(o.variant == Variant::full);
  CHECK(o.horizon == 0);
  CHECK(o.generation_horizon == 128);
  CHECK(o.clamp == 0);
  CHECK((o.normalize && o.recurrence && o.local));
  CHECK_FALSE((o.sigma || o.gate));
  CHECK(o.product == Product::complement);
  CHECK(o.advance == Advance::segment);
  CHECK(o.padding == Padding::masked);
}

TEST_CASE("every field of config.json is read") {
  json config = small();
  config.update({{"num_decoder_layers", 5},
                 {"relative_attention_num_buckets", 8},
                 {"relative_attention_max_distance", 33},
                 {"dropout_rate", 0.25},
                 {"layer_norm_epsilon", 1e-5},
                 {"initializer_factor", 0.5},
                 {"scale_decoder_outputs", false},
                 {"pad_token_id", 2},
                 {"eos_token_id", 3},
                 {"decoder_start_token_id", 4}});
  config["cross_attention"] = {{"variant", "segmented_recurrent"},
                               {"segment_size", 7},
                               {"horizon", 9},
                               {"generation_horizon", 11},
                               {"clamp", 2.5},
                               {"normalize", false},
                               {"recurrence", false},
                               {"local", false},
                               {"product", "segment"},
                               {"advance", "token"},
                               {"padding", "upstream"},
                               {"sigma", true},
                               {"gate", true},
                               {"binary_firing", true},
                               {"average_products", true}};
  const T5Config c = read(config);
  CHECK(cross_of(read(to_json(c))).binary_firing);
  CHECK(cross_of(read(to_json(c))).average_products);
  config["cross_attention"]["soft_keys"] = 4;
  CHECK(cross_of(read(to_json(read(config)))).soft_keys == 4);
  config["cross_attention"]["soft_keys"] = nullptr;
  CHECK(cross_of(read(config)).soft_keys == 0);
  CHECK(c.num_layers == 2);
  CHECK(c.num_decoder_layers == 5);
  CHECK(c.relative_attention_num_buckets == 8);
  CHECK(c.relative_attention_max_distance == 33);
  CHECK(c.dropout_rate == 0.25);
  CHECK(c.layer_norm_epsilon == 1e-5);
  CHECK(c.initializer_factor == 0.5);
  CHECK_FALSE(c.scale_decoder_outputs);
  CHECK(c.pad_token_id == 2);
  CHECK(c.eos_token_id == 3);
  CHECK(c.decoder_start_token_id == 4);
  const CrossAttentionOptions o = cross_of(c);
  CHECK(o.variant == Variant::segmented_recurrent);
  CHECK(o.segment_size == 7);
  CHECK(o.horizon == 9);
  CHECK(o.generation_horizon == 11);
  CHECK(o.clamp == 2.5);
  CHECK_FALSE((o.normalize || o.recurrence || o.local));
  CHECK(o.product == Product::segment);
  CHECK(o.advance == Advance::token);
  CHECK(o.padding == Padding::upstream);
  CHECK((o.sigma && o.gate && o.binary_firing && o.average_products));
}

TEST_CASE("the width of all heads may differ from that of the model") {
  const T5Config c = read(small());
  CHECK(c.inner() == 12);
  json wide = small();
  wide["num_heads"] = 5;
  CHECK(read(wide).inner() == 20);
}

TEST_CASE("feed_forward_proj names activation and gate, gated-gelu with the tanh form") {
  const auto projection = [](const char* name) {
    json config = small();
    config["feed_forward_proj"] = name;
    const T5Config c = read(config);
    return std::pair(c.activation, c.gated);
  };
  CHECK(projection("relu") == std::pair(Activation::relu, false));
  CHECK(projection("silu") == std::pair(Activation::silu, false));
  CHECK(projection("gated-silu") == std::pair(Activation::silu, true));
  CHECK(projection("gated-swish") == std::pair(Activation::silu, true));
  CHECK(projection("gated-gelu_new") == std::pair(Activation::gelu_new, true));
  CHECK(projection("gated-gelu_python") == std::pair(Activation::gelu, true));
  CHECK(projection("gelu_pytorch_tanh") == std::pair(Activation::gelu_new, false));
  CHECK(projection("gated-quick_gelu") == std::pair(Activation::quick_gelu, true));
  CHECK(projection("gelu") == std::pair(Activation::gelu, false));
  CHECK(projection("gelu_new") == std::pair(Activation::gelu_new, false));
  CHECK(projection("gated-relu") == std::pair(Activation::relu, true));
  CHECK(projection("gated-gelu") == std::pair(Activation::gelu_new, true));
  for (const char* name : {"mish", "gated-mish", "gated", "gated-", "", "plain-gelu", "gelu-gated",
                           "gated-gelu-new", "ReLU"}) {
    CAPTURE(name);
    CHECK_THAT(refusal("feed_forward_proj", name),
               ContainsSubstring("\"feed_forward_proj\" is \"" + std::string(name) +
                                 "\", expected one of relu, gelu, gelu_python, gelu_new"));
  }
}

TEST_CASE("dense_act_fn and is_gated_act go before feed_forward_proj, as in transformers") {
  // the first flan-t5 said feed_forward_proj "gelu" of weights that are gated
  json config = small();
  config.update(
      {{"feed_forward_proj", "gelu"}, {"dense_act_fn", "gelu_new"}, {"is_gated_act", true}});
  const T5Config c = read(config);
  CHECK((c.gated && c.activation == Activation::gelu_new));
  const json saved = to_json(c);
  for (const char* key : {"feed_forward_proj", "dense_act_fn", "is_gated_act"})
    CHECK(saved.at(key) == config.at(key));
  config["feed_forward_proj"] = "gated-gelu";
  for (const json& no : {json(false), json(nullptr), json(0)}) {
    config["is_gated_act"] = no;
    CHECK_FALSE(read(config).gated);
  }
  config.erase("is_gated_act");
  config["dense_act_fn"] = "gelu";
  CHECK((read(config).gated && read(config).activation == Activation::gelu));
  config["dense_act_fn"] = nullptr;
  CHECK(read(config).activation == Activation::gelu_new);
  config["dense_act_fn"] = "tanh";
  CHECK_THAT(refusal(config),
             ContainsSubstring("\"dense_act_fn\" is \"tanh\", expected one of relu"));

  // what is changed after reading is what is saved, and nothing in the file goes before it
  T5Config changed = c;
  changed.activation = Activation::gelu;
  const T5Config again = read(to_json(changed));
  CHECK((again.gated && again.activation == Activation::gelu));
  for (const Activation kind : {Activation::relu, Activation::gelu, Activation::gelu_new,
                                Activation::gelu_fast, Activation::silu, Activation::quick_gelu})
    for (const bool gated : {false, true}) {
      changed.activation = kind, changed.gated = gated;
      const T5Config back = read(to_json(changed));
      CAPTURE(activation_name(kind), gated);
      CHECK((back.activation == kind && back.gated == gated));
    }
}

TEST_CASE("whether the output is scaled goes by its field, or else by whether it is tied") {
  const auto scaled = [](const json& fields) {
    json config = small();
    config.update(fields);
    return read(config).scale_decoder_outputs;
  };
  CHECK(scaled(json::object()));
  CHECK(scaled({{"tie_word_embeddings", true}}));
  CHECK(scaled({{"tie_word_embeddings", nullptr}}));
  CHECK_FALSE(scaled({{"tie_word_embeddings", false}}));
  CHECK(scaled({{"tie_word_embeddings", false}, {"scale_decoder_outputs", true}}));
  CHECK_FALSE(scaled({{"tie_word_embeddings", true}, {"scale_decoder_outputs", false}}));
  CHECK_FALSE(scaled({{"scale_decoder_outputs", nullptr}}));
  json config = small();
  config["tie_word_embeddings"] = false;
  CHECK_FALSE(read(config).tie_word_embeddings);
}

TEST_CASE("a configuration may say more than one end, or none") {
  const auto end = [](const json& value) {
    json config = small();
    config["eos_token_id"] = value;
    const T5Config c = read(config);
    CHECK(read(to_json(c)).eos_token_id == c.eos_token_id);
    if (!value.empty()) CHECK(to_json(c).at("eos_token_id") == value);
    return c.eos_token_id;
  };
  CHECK(end(json::array({3, 5})) == 3);
  CHECK(end(json::array({77, 5})) == 5);  // one that is outside the vocabulary never comes
  CHECK(end(json::array()) == 1);
  CHECK(end(nullptr) == 1);
  CHECK_THAT(
      refusal("eos_token_id", json::array({77, -1})),
      ContainsSubstring("\"eos_token_id\" is [77,-1], expected a token id of the vocabulary"));
  CHECK_THAT(refusal("eos_token_id", json::array({1.5})),
             ContainsSubstring("expected a token id or a list of them"));
  json bart = small_bart();
  bart["eos_token_id"] = {4, 5};
  CHECK(read_bart(bart).eos_token_id == 4);
  bart["bos_token_id"] = nullptr;
  CHECK(read_bart(bart).bos_token_id == 0);
}

TEST_CASE("names that all models of transformers share go before a model's own") {
  json config = small();
  config.update(
      {{"hidden_size", 24}, {"head_dim", 6}, {"num_hidden_layers", 5}, {"num_attention_heads", 2}});
  const T5Config c = read(config);
  CHECK((c.d_model == 24 && c.d_kv == 6 && c.num_layers == 5 && c.num_heads == 2));
  CHECK(c.num_decoder_layers == 2);  // that of num_layers
  CHECK(to_json(c).at("hidden_size") == 24);
  T5Config changed = c;
  changed.d_model = 30, changed.num_layers = 1;
  CHECK(read(to_json(changed)).d_model == 30);
  CHECK(read(to_json(changed)).num_layers == 1);
  json bart = small_bart();
  bart.update({{"hidden_size", 24}, {"num_hidden_layers", 5}, {"num_attention_heads", 2}});
  const BartConfig b = read_bart(bart);
  CHECK((b.d_model == 24 && b.encoder_layers == 5 && b.encoder_attention_heads == 2));
  CHECK((b.decoder_layers == 3 && b.decoder_attention_heads == 6));
  set_config_field(bart, "encoder_layers", 1);
  CHECK(read_bart(bart).encoder_layers == 1);
}

TEST_CASE("sizes that are absent are those of t5-small as in transformers, and null is none") {
  const T5Config c = read({{"model_type", "t5"}});
  CHECK((c.vocab_size == 32128 && c.d_model == 512 && c.d_kv == 64 && c.d_ff == 2048));
  CHECK((c.num_layers == 6 && c.num_decoder_layers == 6 && c.num_heads == 8));
  CHECK_THAT(refusal(json::object()), ContainsSubstring(path + ": has no \"model_type\""));
  for (const char* key : {"vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads"})
    CHECK_THAT(refusal(key, nullptr), ContainsSubstring(path + ": has no \"" + key + "\""));
  CHECK_THAT(refusal("model_type", "bart"),
             ContainsSubstring("\"model_type\" is \"bart\", expected \"t5\""));
}

TEST_CASE("a size of zero or less is refused") {
  for (const char* key :
       {"vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_decoder_layers", "num_heads",
        "relative_attention_num_buckets", "relative_attention_max_distance"}) {
    CAPTURE(key);
    CHECK_THAT(refusal(key, 0),
               ContainsSubstring("\"" + std::string(key) + "\" is 0, expected at least 1"));
    CHECK_THAT(refusal(key, -3), ContainsSubstring("is -3, expected at least 1"));
  }
  CHECK_THAT(cross_refusal("segment_size", 0),
             ContainsSubstring("\"segment_size\" is 0, expected at least 1"));
  CHECK_THAT(cross_refusal("horizon", 0),
             ContainsSubstring("\"horizon\" is 0, expected at least 1"));
  CHECK_THAT(cross_refusal("generation_horizon", 0),
             ContainsSubstring("\"generation_horizon\" is 0, expected at least 1"));
}

TEST_CASE("a field of another type is refused with what it holds") {
  CHECK_THAT(refusal("d_model", "12"),
             ContainsSubstring("\"d_model\" is \"12\", expected an integer"));
  CHECK_THAT(refusal("d_model", 12.5), ContainsSubstring("is 12.5, expected an integer"));
  CHECK_THAT(refusal("dropout_rate", true), ContainsSubstring("expected a number"));
  CHECK_THAT(refusal("tie_word_embeddings", 1), ContainsSubstring("expected true or false"));
  CHECK_THAT(refusal("feed_forward_proj", 3), ContainsSubstring("expected a string"));
  CHECK_THAT(refusal("cross_attention", "full"),
             ContainsSubstring("\"cross_attention\" is not an object"));
  CHECK_THAT(cross_refusal("segment_size", 8.5), ContainsSubstring("expected an integer"));
  CHECK_THAT(cross_refusal("normalize", "yes"), ContainsSubstring("expected true or false"));
  CHECK_THAT(cross_refusal("clamp", "2"), ContainsSubstring("expected a number"));
}

TEST_CASE("a value out of range is refused") {
  for (const double rate : {-0.1, 1.0, 7.0}) {
    CHECK_THAT(refusal("dropout_rate", rate), ContainsSubstring("at least 0 and below 1"));
  }
  CHECK_THAT(refusal("layer_norm_epsilon", -1e-6), ContainsSubstring("expected at least 0"));
  for (const char* key : {"pad_token_id", "eos_token_id", "decoder_start_token_id"}) {
    CAPTURE(key);
    CHECK_THAT(refusal(key, 40), ContainsSubstring(key) && ContainsSubstring("of the vocabulary"));
    CHECK_THAT(refusal(key, -1), ContainsSubstring(key) && ContainsSubstring("of the vocabulary"));
  }
  CHECK_THAT(cross_refusal("clamp", 0), ContainsSubstring("expected a positive number or null"));
  CHECK_THAT(cross_refusal("clamp", -2), ContainsSubstring("expected a positive number or null"));
}

TEST_CASE("sizes that no file justifies are refused before anything is made of them") {
  for (const char* key : {"d_model", "d_kv", "d_ff", "num_heads", "num_layers",
                          "num_decoder_layers", "relative_attention_num_buckets"}) {
    CAPTURE(key);
    CHECK_THAT(refusal(key, index_t{1} << 40),
               ContainsSubstring(key) && !ContainsSubstring("accepted"));
  }
  CHECK_THAT(refusal("vocab_size", index_t{1} << 40), ContainsSubstring("at most 2147483648"));
  json wide = small();
  wide["num_heads"] = 1 << 20;
  CHECK_THAT(refusal(wide), ContainsSubstring("num_heads"));
  for (const char* key : {"d_model", "encoder_layers", "decoder_layers", "encoder_ffn_dim",
                          "decoder_ffn_dim", "max_position_embeddings"})
    CHECK_THAT(bart_refusal(key, index_t{1} << 40), ContainsSubstring("at most"));
}

TEST_CASE("quantized weights are refused by what config.json says of them") {
  const json quantization{{"quant_method", "bitsandbytes"}, {"load_in_8bit", true}};
  CHECK_THAT(refusal("quantization_config", quantization),
             ContainsSubstring("\"quantization_config\" is {\"load_in_8bit\":true") &&
                 ContainsSubstring("quantized weights are not read"));
  CHECK_THAT(bart_refusal("quantization_config", quantization), ContainsSubstring("not read"));
  CHECK(refusal("quantization_config", nullptr) == "accepted");
}

TEST_CASE("buckets of distances that no bias can have are refused") {
  CHECK_THAT(refusal("relative_attention_num_buckets", 3),
             ContainsSubstring("relative_attention_num_buckets"));
  json config = small();
  config["relative_attention_num_buckets"] = 32;
  config["relative_attention_max_distance"] = 16;
  CHECK_THAT(refusal(config), ContainsSubstring("relative_attention_max_distance"));
  config["relative_attention_max_distance"] = 17;
  CHECK(refusal(config) == "accepted");
}

TEST_CASE("an unknown field or word of the cross-attention is refused with those that are known") {
  CHECK_THAT(cross_refusal("segmentsize", 8),
             ContainsSubstring("\"cross_attention\" has an unknown field \"segmentsize\""));
  CHECK_THAT(refusal("cross_attention", {{"variant", "sparse"}}),
             ContainsSubstring("\"variant\" is \"sparse\", expected one of full, segmented, "
                               "segmented_recurrent"));
  CHECK_THAT(cross_refusal("product", "all"), ContainsSubstring("one of complement, segment"));
  CHECK_THAT(cross_refusal("advance", "query"), ContainsSubstring("one of segment, token"));
  CHECK_THAT(cross_refusal("padding", "zero"), ContainsSubstring("one of masked, upstream"));
}

TEST_CASE("null stands for what is absent") {
  json config = small();
  config["num_decoder_layers"] = nullptr;
  config["cross_attention"] = {
      {"variant", "segmented"}, {"segment_size", 4}, {"horizon", nullptr}, {"clamp", nullptr}};
  const T5Config c = read(config);
  CHECK(c.num_decoder_layers == 2);
  CHECK(cross_of(c).horizon == 0);
  CHECK(cross_of(c).clamp == 0);
  config["cross_attention"] = nullptr;
  CHECK(read(config).cross_attention.variant == "full");
}

TEST_CASE("a configuration comes back from what is saved, and fields it does not know stay") {
  json config = small();
  config.update({{"num_decoder_layers", 5},
                 {"feed_forward_proj", "gated-gelu"},
                 {"dropout_rate", 0.3},
                 {"n_positions", 512},
                 {"task_specific_params", {{"summarization", {{"prefix", "summarize: "}}}}}});
  config["cross_attention"] = {{"variant", "segmented_recurrent"},
                               {"segment_size", 5},
                               {"clamp", 2},
                               {"advance", "token"},
                               {"gate", true}};
  T5Config c = read(config);
  set_cross(c, cross_of(c));  // as a model has it, all options written out
  const json saved = to_json(c);
  for (const auto& [key, value] : config.items()) {
    CAPTURE(key);
    if (key == "cross_attention") continue;
    CHECK(saved.at(key) == (key == "model_type" ? json("srformer_t5") : value));
  }
  CHECK(saved.at("cross_attention") == json({{"variant", "segmented_recurrent"},
                                             {"segment_size", 5},
                                             {"horizon", nullptr},
                                             {"generation_horizon", 128},
                                             {"clamp", 2.0},
                                             {"normalize", true},
                                             {"recurrence", true},
                                             {"local", true},
                                             {"product", "complement"},
                                             {"advance", "token"},
                                             {"padding", "masked"},
                                             {"sigma", false},
                                             {"gate", true}}));
  CHECK(saved.at("architectures") == json({"SrformerT5ForConditionalGeneration"}));
  CHECK(saved.at("is_encoder_decoder") == true);
  CHECK(to_json(read(saved)) == saved);

  for (const char* projection :
       {"relu", "gelu", "gelu_new", "gated-relu", "gated-gelu", "gated-gelu_new", "gated-swish",
        "gelu_pytorch_tanh", "gated-gelu_python"}) {
    config["feed_forward_proj"] = projection;
    const T5Config before = read(config), after = read(to_json(before));
    CAPTURE(projection);
    CHECK(to_json(before).at("feed_forward_proj") == projection);
    CHECK(after.activation == before.activation);
    CHECK(after.gated == before.gated);
  }
}

TEST_CASE("an untied output stays untied when it is saved") {
  json config = small();
  config["tie_word_embeddings"] = false;
  const json saved = to_json(read(config));
  CHECK(saved.at("tie_word_embeddings") == false);
  CHECK_FALSE(read(saved).scale_decoder_outputs);
  CHECK_FALSE(read(saved).tie_word_embeddings);
}

TEST_CASE("what a BART's config.json leaves out is as in transformers") {
  const BartConfig c = read_bart(small_bart());
  CHECK(c.vocab_size == 40);
  CHECK(c.d_model == 12);
  CHECK(c.encoder_layers == 2);
  CHECK(c.decoder_layers == 3);
  CHECK(c.encoder_attention_heads == 4);
  CHECK(c.decoder_attention_heads == 6);
  CHECK(c.encoder_ffn_dim == 20);
  CHECK(c.decoder_ffn_dim == 24);
  // the defaults of BartConfig in transformers 5.23
  CHECK(c.max_position_embeddings == 1024);
  CHECK(c.dropout == 0.1);
  CHECK(c.attention_dropout == 0);
  CHECK(c.activation_dropout == 0);
  CHECK(c.init_std == 0.02);
  CHECK(c.activation == Activation::gelu);
  CHECK_FALSE(c.scale_embedding);
  CHECK(c.pad_token_id == 1);
  CHECK(c.bos_token_id == 0);
  CHECK(c.eos_token_id == 2);
  CHECK(c.decoder_start_token_id == 2);
  CHECK(cross_of(c).variant == Variant::full);
  json other_end = small_bart();
  other_end["eos_token_id"] = 5;
  CHECK(read_bart(other_end).decoder_start_token_id == 2);
}

TEST_CASE("every field of a BART's config.json is read") {
  json config = small_bart();
  config.update({{"max_position_embeddings", 77},
                 {"dropout", 0.25},
                 {"attention_dropout", 0.125},
                 {"activation_dropout", 0.5},
                 {"init_std", 0.3},
                 {"activation_function", "relu"},
                 {"scale_embedding", true},
                 {"pad_token_id", 3},
                 {"bos_token_id", 4},
                 {"eos_token_id", 5},
                 {"decoder_start_token_id", 6},
                 {"encoder_layerdrop", 0.0},
                 {"tie_word_embeddings", true},
                 {"cross_attention",
                  {{"variant", "segmented_recurrent"}, {"segment_size", 16}, {"clamp", 2}}}});
  const BartConfig c = read_bart(config);
  CHECK(c.max_position_embeddings == 77);
  CHECK(c.dropout == 0.25);
  CHECK(c.attention_dropout == 0.125);
  CHECK(c.activation_dropout == 0.5);
  CHECK(c.init_std == 0.3);
  CHECK(c.activation == Activation::relu);
  CHECK(c.scale_embedding);
  CHECK(c.pad_token_id == 3);
  CHECK(c.bos_token_id == 4);
  CHECK(c.eos_token_id == 5);
  CHECK(c.decoder_start_token_id == 6);
  CHECK(cross_of(c).variant == Variant::segmented_recurrent);
  CHECK(cross_of(c).segment_size == 16);
  CHECK(cross_of(c).clamp == 2);
}

TEST_CASE("sizes of a BART that are absent are those of bart-large, and null is none") {
  const BartConfig c = read_bart({{"model_type", "bart"}});
  CHECK((c.vocab_size == 50265 && c.d_model == 1024));
  CHECK((c.encoder_layers == 12 && c.decoder_layers == 12));
  CHECK((c.encoder_attention_heads == 16 && c.decoder_attention_heads == 16));
  CHECK((c.encoder_ffn_dim == 4096 && c.decoder_ffn_dim == 4096));
  const json whole = small_bart();
  for (const auto& [key, value] : whole.items()) {
    if (key != "model_type")
      CHECK_THAT(bart_refusal(key.c_str(), nullptr),
                 ContainsSubstring(path + ": has no \"" + key + "\""));
  }
  CHECK_THAT(bart_refusal(json::object()), ContainsSubstring("has no \"model_type\""));
  CHECK_THAT(bart_refusal("model_type", "t5"),
             ContainsSubstring("\"model_type\" is \"t5\", expected \"bart\""));
}

TEST_CASE("a value that a BART cannot have is refused by its name") {
  for (const char* key : {"vocab_size", "d_model", "encoder_layers", "decoder_layers",
                          "encoder_attention_heads", "decoder_attention_heads", "encoder_ffn_dim",
                          "decoder_ffn_dim", "max_position_embeddings"}) {
    const std::string name = "\"" + std::string(key) + "\"";
    CHECK_THAT(bart_refusal(key, 0), ContainsSubstring(name + " is 0, expected at least 1"));
    CHECK_THAT(bart_refusal(key, -3), ContainsSubstring(name + " is -3, expected at least 1"));
    CHECK_THAT(bart_refusal(key, "12"),
               ContainsSubstring(name + " is \"12\", expected an integer"));
    CHECK_THAT(bart_refusal(key, 2.5), ContainsSubstring(name + " is 2.5, expected an integer"));
  }
  for (const char* key : {"encoder_attention_heads", "decoder_attention_heads"}) {
    for (const int heads : {5, 24}) {
      CHECK_THAT(bart_refusal(key, heads),
                 ContainsSubstring("\"" + std::string(key) + "\" is " + std::to_string(heads) +
                                   ", expected a divisor of d_model"));
    }
    CHECK(bart_refusal(key, 12) == "accepted");
  }
  for (const char* key : {"dropout", "attention_dropout", "activation_dropout"}) {
    for (const double rate : {-0.1, 1.0}) {
      CHECK_THAT(bart_refusal(key, rate),
                 ContainsSubstring(key) && ContainsSubstring("at least 0 and below 1"));
    }
    CHECK_THAT(bart_refusal(key, "0.1"), ContainsSubstring("expected a number"));
  }
  for (const char* key : {"encoder_layerdrop", "decoder_layerdrop"}) {
    CHECK_THAT(bart_refusal(key, 1.5), ContainsSubstring("expected from 0 to 1"));
    CHECK(bart_refusal(key, nullptr) == "accepted");
  }
  for (const char* key : {"pad_token_id", "eos_token_id", "decoder_start_token_id"}) {
    for (const int id : {40, -1}) {
      CHECK_THAT(bart_refusal(key, id),
                 ContainsSubstring(key) && ContainsSubstring("of the vocabulary"));
    }
  }
  for (const char* key : {"pad_token_id", "bos_token_id", "decoder_start_token_id"})
    CHECK_THAT(bart_refusal(key, json::array({2})), ContainsSubstring("expected an integer"));
  CHECK(bart_refusal("bos_token_id", 40) == "accepted");  // no model reads it
  CHECK_THAT(bart_refusal("tie_word_embeddings", false),
             ContainsSubstring("\"tie_word_embeddings\" is false, expected true: the output"));
  CHECK_THAT(bart_refusal("tie_word_embeddings", 1), ContainsSubstring("expected true or false"));
  CHECK_THAT(bart_refusal("scale_embedding", "yes"), ContainsSubstring("expected true or false"));
  CHECK_THAT(bart_refusal("activation_function", "relu6"),
             ContainsSubstring("\"activation_function\" is \"relu6\", expected one of relu, gelu"));
  CHECK_THAT(bart_refusal("activation_function", nullptr),
             ContainsSubstring("activation_function"));
  CHECK_THAT(bart_refusal("cross_attention", {{"variant", "sparse"}}),
             ContainsSubstring("\"variant\" is \"sparse\""));
}

TEST_CASE("a BART's configuration comes back from what is saved, and unknown fields stay") {
  json config = small_bart();
  config.update({{"max_position_embeddings", 77},
                 {"dropout", 0.25},
                 {"attention_dropout", 0.125},
                 {"activation_dropout", 0.5},
                 {"init_std", 0.3},
                 {"scale_embedding", true},
                 {"pad_token_id", 3},
                 {"bos_token_id", 4},
                 {"eos_token_id", 5},
                 {"decoder_start_token_id", 6},
                 {"forced_eos_token_id", 5},
                 {"classifier_dropout", 0.0},
                 {"task_specific_params", {{"summarization", {{"num_beams", 4}}}}}});
  for (const char* activation : {"relu", "gelu", "gelu_new", "swish", "silu", "gelu_python_tanh"}) {
    config["activation_function"] = activation;
    const json saved = to_json(read_bart(config));
    for (const auto& [key, value] : config.items()) {
      CAPTURE(key);
      CHECK(saved.at(key) == value);
    }
    CHECK(saved.at("cross_attention").at("variant") == "full");
    CHECK(saved.at("architectures") == json({"BartForConditionalGeneration"}));
    CHECK(saved.at("is_encoder_decoder") == true);
    CHECK(to_json(read_bart(saved)) == saved);
  }
  // what is changed after reading is what is saved
  BartConfig changed = read_bart(config);
  changed.cross_attention.variant = "segmented";
  changed.dropout = 0.75;
  changed.activation = Activation::quick_gelu;
  const json saved = to_json(changed);
  CHECK(saved.at("cross_attention").at("variant") == "segmented");
  CHECK(saved.at("dropout") == 0.75);
  CHECK(saved.at("activation_function") == "quick_gelu");
}

TEST_CASE("dropped layers are read, and stop training alone") {
  json config = small_bart();
  for (const char* key : {"encoder_layerdrop", "decoder_layerdrop"}) {
    config[key] = 0.1;
    const BartConfig c = read_bart(config);
    CHECK(to_json(c).at(key) == 0.1);
    CHECK_THROWS_WITH(check_training(c), ContainsSubstring("layers are not dropped here"));
    config.erase(key);
  }
  CHECK_NOTHROW(check_training(read_bart(config)));
}
