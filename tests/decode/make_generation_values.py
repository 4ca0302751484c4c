"""Writes data/generations.json: what transformers' generate makes of logits that a formula gives.

    python tests/decode/make_generation_values.py tests/decode/data/generations.json

Made with transformers 5.23 and torch 2.15. generations_test.cpp has the same formula: the logit of a token depends on the
source, the position and the token before it, so that every hypothesis has scores of its own.
"""
import json
import random
import sys

import torch
from transformers import T5Config, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

V = 29


def logit(source, position, last, token):
    x = (source * 7919 + position * 104729 + last * 1299709 + token * 15485863 + 12345) & 0xFFFFFFFF
    for _ in range(3):
        x = ((x ^ (x >> 16)) * 0x45D9F3B) & 0xFFFFFFFF
    x ^= x >> 16
    return (x / 2**32) * 6 - 3 + (1.5 if token == 1 else 0)


class Formula(T5ForConditionalGeneration):
    def forward(self, encoder_outputs=None, decoder_input_ids=None, **kw):
        rows = []
        for source, ids in zip(encoder_outputs[0][:, 0, 0].tolist(), decoder_input_ids.tolist()):
            rows.append([[logit(int(source), len(ids), ids[-1], t) for t in range(V)]])
        return Seq2SeqLMOutput(logits=torch.tensor(rows, dtype=torch.float64))


def choose(rng):
    o = {}
    kind = rng.choice(["greedy", "beam", "beam", "beam"])
    if kind == "beam":
        o["num_beams"] = rng.choice([2, 3, 4])
        o["num_return_sequences"] = rng.randint(1, o["num_beams"])
        o["length_penalty"] = rng.choice([1.0, 2.0, 0.5, 0.0, -1.0])
        o["early_stopping"] = rng.choice([True, False, "never"])
    o["max_length"] = rng.randint(2, 12)
    if rng.random() < 0.2:
        o["max_new_tokens"] = rng.randint(1, 11)
    if rng.random() < 0.3:
        o["min_length"] = rng.randint(0, 6)
    if rng.random() < 0.2:
        o["min_new_tokens"] = rng.randint(0, 5)
    if rng.random() < 0.3:
        o["repetition_penalty"] = rng.choice([0.7, 1.3, 2.0])
    if rng.random() < 0.3:
        o["no_repeat_ngram_size"] = rng.randint(1, 3)
    if rng.random() < 0.2:
        o["encoder_no_repeat_ngram_size"] = rng.randint(1, 3)
    if rng.random() < 0.3:
        o["bad_words_ids"] = [[rng.randrange(V) for _ in range(rng.randint(1, 3))] for _ in range(rng.randint(1, 5))]
    if rng.random() < 0.2:
        o["forced_bos_token_id"] = rng.randrange(2, V)
    if rng.random() < 0.3:
#of several forced tokens beams have ties, which torch breaks by chance
        o["forced_eos_token_id"] = rng.choice([1, [1, 2]]) if kind == "greedy" else 1
    if rng.random() < 0.2:
        o["suppress_tokens"] = [rng.randrange(2, V) for _ in range(2)]
    if rng.random() < 0.2:
        o["begin_suppress_tokens"] = [rng.randrange(1, V) for _ in range(2)]
    o["eos_token_id"] = rng.choice([1, 1, [1, 5], [3, 1, 8]])
    forced = ([o["forced_bos_token_id"]] if "forced_bos_token_id" in o else []) + (
        list(o["forced_eos_token_id"]) if isinstance(o.get("forced_eos_token_id"), list) else [])
    for name in ("suppress_tokens", "begin_suppress_tokens"):  # transformers refuses to do both
        if name in o and set(o[name]) & set(forced):
            del o[name]
    o["decoder_start_token_id"] = rng.choice([0, 0, 4])
    o["pad_token_id"] = rng.choice([0, 0, 2])
    return o


def main(path):
    config = T5Config(vocab_size=V, d_model=2, d_kv=2, d_ff=2, num_layers=1, num_heads=1)
    model = Formula(config)
    rng = random.Random(5)
    cases = []
    while len(cases) < 240:
        options = choose(rng)
        sources = rng.sample(range(40), rng.choice([1, 3]))
        width = rng.randint(3, 12)
        ids = [[rng.randrange(2, 12) for _ in range(width)] for _ in sources]
        encoded = torch.tensor(sources, dtype=torch.float64).reshape(-1, 1, 1).expand(-1, width, 2).contiguous()
        out = model.generate(
            input_ids=torch.tensor(ids), encoder_outputs=BaseModelOutput(last_hidden_state=encoded), use_cache=False,
            return_dict_in_generate=True, output_scores=True, **options)
        case = dict(options=options, sources=sources, ids=ids, sequences=out.sequences.tolist())
        if "num_beams" in options:
            case["scores"] = [round(x, 6) for x in out.sequences_scores.tolist()]
            if any(not -1e8 < x for x in case["scores"]):
                continue  # hypotheses that are not there: in float32 their order is chance
        cases.append(case)
    with open(path, "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "\n]\n")


main(sys.argv[1])
