"""Generation of exactly as many tokens as asked for, by CTranslate2 or transformers; an end token is never chosen.

Answers with seconds, ids without the start token, and scores: a sum of log-probabilities over the number of tokens.
"""
import json
import os
import tempfile
import time

from rounds import job, serve

job = job()
with open(job["sources"]) as f:
    sources = json.load(f)


def converted():
    """The folder of CTranslate2's own format, made once; its tokens are the ids in decimal."""
    from ctranslate2.converters import TransformersConverter
    from tokenizers import Tokenizer, models

    folder = job["model"] + "-ctranslate2"
    if os.path.exists(folder):
        return folder
    with open(os.path.join(job["model"], "config.json")) as f:
        config = json.load(f)
    if config["model_type"] == "bart":
        config["normalize_before"] = False  # the converter asks for it
    special = {f"{name}_token": str(config[f"{name}_token_id"]) for name in ("bos", "eos", "pad")
               if f"{name}_token_id" in config}
    with tempfile.TemporaryDirectory() as source:
        weights = "model.safetensors"
        os.symlink(os.path.abspath(os.path.join(job["model"], weights)), os.path.join(source, weights))
        words = {str(i): i for i in range(config["vocab_size"])}
        Tokenizer(models.WordLevel(words, unk_token="3")).save(os.path.join(source, "tokenizer.json"))
        for name, content in {"config.json": config, "tokenizer_config.json": dict(
                tokenizer_class="PreTrainedTokenizerFast", unk_token="3", **special)}.items():
            with open(os.path.join(source, name), "w") as f:
                json.dump(content, f)
        TransformersConverter(source).convert(folder + ".part", force=True)
    os.rename(folder + ".part", folder)
    return folder


def ctranslate2_generator():
    import ctranslate2

    translator = ctranslate2.Translator(converted(), device="cpu", compute_type=job["dtype"], inter_threads=1,
                                        intra_threads=job["threads"])
    assert translator.compute_type in (job["dtype"], job["dtype"] + "_float32"), translator.compute_type
    tokens = [[str(i) for i in row] for row in sources]

    def generate():
        # Below min_decoding_length the end token is left out; at max_decoding_length beams end as they are.
        results = translator.translate_batch(
            tokens, beam_size=job["beams"], max_decoding_length=job["new_tokens"],
            min_decoding_length=job["new_tokens"], length_penalty=1, return_scores=True, max_input_length=0)
        return [[int(t) for t in r.hypotheses[0]] for r in results], [r.scores[0] for r in results]

    return generate


def transformers_generator():
    import torch
    from transformers import AutoModelForSeq2SeqLM, GenerationConfig

    torch.set_num_threads(job["threads"])
    device = job.get("device", "cpu")
    model = AutoModelForSeq2SeqLM.from_pretrained(job["model"], dtype=getattr(torch, job["dtype"])).eval().to(device)
    config = model.config
    model.generation_config = GenerationConfig(
        decoder_start_token_id=config.decoder_start_token_id, eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id, max_new_tokens=job["new_tokens"], min_new_tokens=job["new_tokens"],
        num_beams=job["beams"], do_sample=False)
    ids = torch.tensor(sources, device=device)

    def generate():
        with torch.no_grad():
            out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), return_dict_in_generate=True,
                                 output_scores=True)
            new = out.sequences[:, 1:]
            if job["beams"] > 1:
                return new.tolist(), out.sequences_scores.tolist()
            chosen = model.compute_transition_scores(out.sequences, out.scores, normalize_logits=True)
            return new.tolist(), chosen.double().mean(1).tolist()

    return generate


generate = dict(ctranslate2=ctranslate2_generator, transformers=transformers_generator)[job["peer"]]()
warm = False


def one_round():
    global warm
    if not warm:
        generate()
        warm = True
    seconds = []
    for _ in range(job["repetitions"]):
        start = time.perf_counter()
        ids, scores = generate()
        seconds.append(time.perf_counter() - start)
    return dict(seconds=seconds, ids=ids, scores=scores)


serve(one_round)
