# SPDX-License-Identifier: Apache-2.0
"""Writes tests/models/data/pegasus: a small PegasusForConditionalGeneration of transformers, and what it computes in float64.

    python3 tests/models/make_pegasus_values.py tests/models/data/pegasus

Made with transformers 5.24.0 and torch 2.15.0.
"""
import json
import sys

import torch
from safetensors.torch import save_file
from transformers import PegasusConfig, PegasusForConditionalGeneration

torch.manual_seed(3)
config = PegasusConfig(
    vocab_size=29, d_model=10, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=5,
    encoder_ffn_dim=14, decoder_ffn_dim=12, max_position_embeddings=24, scale_embedding=True, activation_function="relu",
    dropout=0.0, init_std=0.25, eos_token_id=1, pad_token_id=0, decoder_start_token_id=0, forced_eos_token_id=1)
model = PegasusForConditionalGeneration(config).double().eval()
with torch.no_grad():  # what initialisation leaves at 0 or 1
    for name, p in model.named_parameters():
        if p.requires_grad and (name.endswith(".bias") or "norm" in name):
            p.add_(0.2 * torch.randn_like(p))
    model.final_logits_bias.normal_(0, 0.3)

lengths, target_lengths = [9, 5, 1], [6, 4, 7]
ids = torch.zeros(3, max(lengths), dtype=torch.long)
mask = torch.zeros_like(ids)
labels = torch.full((3, max(target_lengths)), -100)
for row, (n, m) in enumerate(zip(lengths, target_lengths)):
    ids[row, :n] = torch.cat([torch.randint(2, 29, (n - 1,)), torch.tensor([1])])
    mask[row, :n] = 1
    labels[row, :m] = torch.cat([torch.randint(2, 29, (m - 1,)), torch.tensor([1])])

out = model(input_ids=ids, attention_mask=mask, labels=labels)
out.loss.backward()
values = {"logits": out.logits.detach(), "loss": out.loss.detach().reshape(1)}
for name, p in model.named_parameters():
    if p.requires_grad:
        values["grad/" + name] = p.grad
generated = {}
for name, options in {"greedy": dict(no_repeat_ngram_size=1), "beam": dict(num_beams=4, no_repeat_ngram_size=2)}.items():
    rows = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=12, do_sample=False, **options)
    generated[name] = rows.tolist()

folder = sys.argv[1]
model.save_pretrained(folder)
save_file({k: v.contiguous() for k, v in values.items()}, folder + "/reference.safetensors")
with open(folder + "/reference.json", "w", encoding="utf-8") as file:
    json.dump({"lengths": lengths, "input_ids": ids.tolist(), "labels": labels.tolist(), **generated}, file)
    file.write("\n")
