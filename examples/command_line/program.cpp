// SPDX-License-Identifier: Apache-2.0
#include "../program.hpp"

#include <algorithm>
#include <cstdio>

#include "../config_file.hpp"
#include "../hf_flags.hpp"

namespace srformer::program {

namespace {

/// Writes flags as the program does where they have - for _ in their names, which transformers understands as well.
void underscore_flags(const CLI::App& app, std::vector<std::string>& words) {
  for (std::string& word : words) {
    const std::size_t end = std::min(word.find('='), word.size());
    const auto name = [&] { return word.substr(0, end); };
    if (!word.starts_with("--") || app.get_option_no_throw(name()) != nullptr) continue;
    const std::string before = word;
    std::replace(word.begin() + 2, word.begin() + static_cast<std::ptrdiff_t>(end), '-', '_');
    bool negated = false;
    if (app.get_option_no_throw(name()) == nullptr && !find_hf_flag(name().substr(2), negated))
      word = before;
  }
}

/// Turns `--flag true` into `--flag=true` where the flag takes no value, so that both are understood, as in
/// transformers.
void join_truths(const CLI::App& app, std::vector<std::string>& words) {
  for (std::size_t i = 0; i + 1 < words.size(); ++i) {
    if (!words[i].starts_with("--") || !truth_of(words[i + 1])) continue;
    const CLI::Option* option = app.get_option_no_throw(words[i]);
    if (option == nullptr || option->get_items_expected_max() != 0) continue;
    words[i] += "=" + words[i + 1];
    words.erase(words.begin() + static_cast<std::ptrdiff_t>(i) + 1);
  }
}

/// Words that begin as a flag does and are none of the program, in their order; empty: there is none.
std::string unknown_flags(const CLI::App& app, const std::vector<std::string>& words) {
  std::string unknown;
  for (const std::string& word : words) {
    const std::string name = word.substr(0, word.find('='));
    if (!name.starts_with("--") || app.get_option_no_throw(name) != nullptr || unknown.size() > 300)
      continue;
    unknown += (unknown.empty() ? "" : ", ") + name;
  }
  return unknown;
}

/// Says which flags of transformers have no effect here; throws usage_error for those that would have one.
void answer_hf_flags(const HfFlagsGiven& given) {
  std::string without_effect;
  for (const std::string& name : given.without_effect)
    if (without_effect.size() < 200) without_effect += (without_effect.empty() ? "" : ", ") + name;
  if (given.refused.empty()) {
    if (!without_effect.empty()) print_notice("notice: without effect here: " + without_effect);
    return;
  }
  std::string refused;
  for (std::size_t i = 0; i < given.refused.size(); ++i) {
    if (refused.size() + given.refused[i].size() > 300 && i > 0) {
      refused += "; and " + std::to_string(given.refused.size() - i) + " more";
      break;
    }
    refused += (i > 0 ? "; " : "") + given.refused[i];
  }
  throw usage_error(refused +
                    (without_effect.empty() ? "" : "; without effect here: " + without_effect));
}

/// Options of one value, in the order of the program's help.
std::vector<CLI::Option*> single_options(CLI::App& app) {
  return app.get_options(
      [](const CLI::Option* option) { return option->get_items_expected_max() == 1; });
}

/// Says which values do not count, as the last of several does.
void tell_repeated(CLI::App& app) {
  for (const CLI::Option* option : single_options(app)) {
    const std::vector<std::string>& given = option->results();
    if (std::ranges::all_of(given, [&](const auto& value) { return value == given.back(); }))
      continue;
    print_notice("notice: " + option->get_name() + " is given " + std::to_string(given.size()) +
                 " times; the last, " + given.back().substr(0, 100) + ", counts");
  }
}

}  // namespace

CLI::Validator at_least(index_t least) {
  const std::string text = "at least " + std::to_string(least);
  return CLI::Validator(
      [least, text](std::string& word) {
        index_t value = 0;
        if (!CLI::detail::lexical_cast(word, value) || value < least)
          return "Value " + word + " is not " + text;
        return std::string();
      },
      text);
}

std::vector<std::string> parse(CLI::App& app, int argc, char** argv,
                               std::span<const Preset> presets) {
  std::vector<std::string> words(argv + 1, argv + argc);
  const std::string program = argv[0];
  app.name(program.substr(program.rfind('/') + 1));
  const auto known = [&](const std::string& name) {
    return app.get_option_no_throw(name) != nullptr;
  };
  bool dump = false;
  if (!known("--config")) {  // init_model has one of its own
    app.add_option("--config", "Flags from a file, JSON or TOML; those given here go before")
        ->configurable(false)
        ->type_name("FILE");
    app.add_flag("--dump_config", dump, "Print the flags given as JSON for --config, and end")
        ->configurable(false);
    expand_config(words);
  }
  std::vector<std::string> of_preset = expand_preset(words, presets);
  underscore_flags(app, words);
  HfFlagsGiven given = take_hf_flags(words, known);
  join_truths(app, words);
  if (const std::string unknown = unknown_flags(app, words); !unknown.empty())
    given.refused.push_back(unknown + ": no such flag, --help lists the options");
  try {
    if (std::ranges::find(words, "--help") == words.end()) answer_hf_flags(given);
    for (CLI::Option* option : single_options(app))
      option->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
    std::ranges::reverse(words);
    app.parse(words);
    tell_repeated(app);
    if (dump) {
      std::printf("%s\n", given_flags_as_json(app).dump(2).c_str());
      throw Exit{0};
    }
  } catch (const CLI::CallForHelp&) {
    std::fputs(app.help().c_str(), stdout);
    throw Exit{0};
  } catch (const CLI::ParseError& error) {
    throw usage_error(error.what() + std::string("; --help lists the options"));
  }
  return of_preset;
}

}  // namespace srformer::program
