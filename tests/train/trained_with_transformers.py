"""A T5 and a BART in the hands of transformers.

    trained_with_transformers.py make data/trained    trains both for ten steps and saves data/trained/t5 and data/trained/bart
    trained_with_transformers.py continue FOLDER      loads a folder with a batch.json

Both write into each folder expected.json: the ids that generate gives, greedy and as generation_config.json says, and the losses of the
next five steps of a new AdamW, in float64. torch 2.15 and transformers 5.23 were used.
"""
import json
import random
import sys

import torch
from transformers import (AutoModelForSeq2SeqLM, BartConfig, BartForConditionalGeneration, GenerationConfig, T5Config,
                          T5ForConditionalGeneration)

torch.set_num_threads(1)
optimizer_options = dict(lr=0.01, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)


def tensors(folder):
    return {k: torch.tensor(v) for k, v in json.load(open(f"{folder}/batch.json")).items()}


def train(model, batch, steps):
    optimizer, losses = torch.optim.AdamW(model.parameters(), **optimizer_options), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def write_expected(folder):
    model, info = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float64, output_loading_info=True)
    assert not any(info.values()), info
    batch = tensors(folder)
    sources = {k: batch[k] for k in ("input_ids", "attention_mask")}
    ids = {name: model.eval().generate(**sources, **options).tolist() for name, options in dict(greedy=dict(num_beams=1), file={}).items()}
    json.dump(dict(losses=train(model, batch, 5), **ids), open(f"{folder}/expected.json", "w"))


def make(name, out):
    torch.manual_seed(5)
    rng = random.Random(2)
    sizes = dict(vocab_size=48, d_model=16, dropout=0.0)
    if name == "t5":
        pad, eos, start = 0, 1, 0
        sizes["dropout_rate"] = sizes.pop("dropout")
        model = T5ForConditionalGeneration(T5Config(d_kv=6, d_ff=20, num_layers=2, num_decoder_layers=2, num_heads=2,
                                                    relative_attention_num_buckets=8, decoder_start_token_id=0, **sizes))
    else:
        pad, eos, start = 1, 2, 2
        model = BartForConditionalGeneration(BartConfig(
            encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=4, encoder_ffn_dim=20,
            decoder_ffn_dim=24, max_position_embeddings=24, init_std=0.2, **sizes))
    model.generation_config = GenerationConfig(
        num_beams=3, no_repeat_ngram_size=2, early_stopping=True, length_penalty=2.0, max_length=12, decoder_start_token_id=start,
        pad_token_id=pad, eos_token_id=eos)
    def rows(lengths, filling):
        width = max(lengths)
        return [[rng.randrange(4, 48) for _ in range(n - 1)] + [eos] + [filling] * (width - n) for n in lengths]
    model.save_pretrained(f"{out}/{name}")
    sources = rows([9, 5, 12, 3], pad)
    batch = dict(input_ids=sources, attention_mask=[[int(i != pad) for i in r] for r in sources], labels=rows([6, 4, 2, 7], -100))
    json.dump(batch, open(f"{out}/{name}/batch.json", "w"))
    losses = train(model.train(), tensors(f"{out}/{name}"), 10)
    print(name, losses)
    model.save_pretrained(f"{out}/{name}")
    write_expected(f"{out}/{name}")


if sys.argv[1] == "make":
    for name in "t5", "bart":
        make(name, sys.argv[2])
else:
    write_expected(sys.argv[2])
