"""Optimizers and schedules in the hands of torch and transformers.

    optimizers_with_transformers.py data/optimizers

writes into data/optimizers

  schedules.json   the factor on the learning rate of every step of transformers' schedules, in several settings
  updates.json     parameters of several shapes after every update of an optimizer, with gradients that a formula gives
  losses.json      the losses of 200 steps from the BART in data/trained/bart, for every optimizer and every schedule, with accumulation
                   of three micro-batches of unequal numbers of tokens, label smoothing, clipping and weight decay

all in float64. The model and the rates are such that a run stays itself when its first parameters change by a share of 1e-15 (`change` of
losses_of); that of a T5 with relu goes its own way within 200 steps. torch 2.15 and transformers 5.24 were used.
"""
import json
import math
import os
import random
import sys

import torch
from transformers import AutoModelForSeq2SeqLM, get_scheduler
from transformers.optimization import Adafactor

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
here = os.path.dirname(os.path.abspath(__file__))


def write(path, value):
    with open(path, "w") as file:
        json.dump(value, file, separators=(",", ":"))
        file.write("\n")


# ---- schedules ------------------------------------------------------------------------------------

def factors(name, warmup, total, lr, kwargs):
    """The learning rate of steps 0 ... total - 1, over the highest."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = get_scheduler(name, optimizer, warmup, total, kwargs)
    made = []
    for step in range(total):
        made.append(optimizer.param_groups[0]["lr"] / lr)
        optimizer.step()
        if step + 1 < total:
            scheduler.step()
    return made


def schedules():
    arguments = {
        "linear": [{}], "constant": [{}], "constant_with_warmup": [{}],
        "cosine": [{}, dict(num_cycles=1.25)],
        "cosine_with_restarts": [{}, dict(num_cycles=3)],
        "polynomial": [{}, dict(lr_end=1e-3, power=2.5), dict(power=0.5)],
        "inverse_sqrt": [{}, dict(timescale=5)],
        "cosine_with_min_lr": [dict(min_lr=2e-3), dict(min_lr_rate=0.2, num_cycles=0.8)],
        "warmup_stable_decay": [dict(num_decay_steps=4), dict(num_decay_steps=6, warmup_type="cosine", decay_type="linear", min_lr_ratio=0.1),
                                dict(num_decay_steps=5, num_stable_steps=2, warmup_type="1-sqrt", decay_type="1-sqrt"),
                                dict(num_decay_steps=5, decay_type="cosine", num_cycles=1.5, min_lr_ratio=0.05)],
    }
    made = []
    for name, settings in arguments.items():
        for kwargs in settings:
            for warmup, total in (0, 13), (4, 17), (30, 11), (0, 1), (1, 1), (9, 9):
                lr = 0.03
                made.append(dict(name=name, warmup=warmup, total=total, lr=lr, arguments=kwargs,
                                 factors=factors(name, warmup, total, lr, kwargs)))
    return made


# ---- optimizers -----------------------------------------------------------------------------------

adamw = dict(name="adamw_torch", beta1=0.9, beta2=0.99, epsilon=1e-6)
optimizers = {
    "adamw": adamw,
    "adafactor": dict(name="adafactor"),
    "adafactor_scaled": dict(name="adafactor", scale_parameter=True, decay_rate=-0.6, clip_threshold=0.5),
    "adafactor_moment": dict(name="adafactor", beta1=0.85, epsilon1=1e-12),
    "adafactor_relative": dict(name="adafactor", scale_parameter=True, relative_step=True, epsilon2=0.01),
    "adafactor_warmup": dict(name="adafactor", scale_parameter=True, relative_step=True, warmup_init=True, beta1=0.0),
    "sgd": dict(name="sgd"),
    "sgd_momentum": dict(name="sgd", momentum=0.9, dampening=0.3),
    "sgd_nesterov": dict(name="sgd", momentum=0.8, nesterov=True),
}


def make_optimizer(o, groups, lr):
    o = dict(o)
    name = o.pop("name")
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, **o)
    if name == "adamw_torch":
        return torch.optim.AdamW(groups, lr=lr, betas=(o["beta1"], o["beta2"]), eps=o["epsilon"])
    eps = (o.pop("epsilon1", 1e-30), o.pop("epsilon2", 1e-3))
    relative = o.setdefault("relative_step", False)
    o.setdefault("scale_parameter", False)
    return Adafactor(groups, lr=None if relative else lr, eps=eps, **o)


def updates():
    shapes = [("matrix", "weight", [5, 7]), ("vector", "bias", [3]), ("cube", "weight", [2, 4, 3]), ("row", "embedding", [1, 6]),
              ("column", "weight", [6, 1]), ("number", "scalar", [1]), ("unused", "embedding", [3, 2])]
    made = []
    for case, options in optimizers.items():
        for decay, clip in (0.0, 0.0), (0.1, 1.5):
            parameters, at = [], 0
            for name, _, shape in shapes:
                n = math.prod(shape)
                parameters.append(torch.nn.Parameter(torch.tensor([math.cos(0.9 * (at + i)) for i in range(n)]).reshape(shape)))
                at += n
            decayed = [p for p, s in zip(parameters, shapes) if s[1] in ("weight", "embedding")]
            rest = [p for p, s in zip(parameters, shapes) if s[1] not in ("weight", "embedding")]
            groups = [dict(params=decayed, weight_decay=decay), dict(params=rest, weight_decay=0.0)]
            optimizer = make_optimizer(options, groups, 0.05)
            for update in range(1, 6):
                at = 0
                for p, (name, _, shape) in zip(parameters, shapes):
                    n = math.prod(shape)
                    g = [0.0 if name == "unused" else math.sin(1.7 * (at + i) + update) * (1 + i % 5) / update for i in range(n)]
                    p.grad = torch.tensor(g).reshape(shape)
                    at += n
                if clip:
                    torch.nn.utils.clip_grad_norm_(parameters, clip)
                optimizer.step()
            made.append(dict(case=case, options=options, weight_decay=decay, max_grad_norm=clip, learning_rate=0.05, updates=5,
                             values=torch.cat([p.detach().reshape(-1) for p in parameters]).tolist()))
    return dict(parameters=[dict(name=n, role=r, shape=s) for n, r, s in shapes], cases=made)


# ---- losses ---------------------------------------------------------------------------------------

def examples():
    rng = random.Random(11)
    made = []
    for i in range(12):
        row = lambda n: [rng.randrange(4, 48) for _ in range(n - 1)] + [2]
        made.append(dict(source=row(2 + (i * 5) % 11), target=row(2 + (i * 7) % 9)))
    return made


def micro_batch(rows):
    def padded(name, filling):
        width = max(len(r[name]) for r in rows)
        return torch.tensor([r[name] + [filling] * (width - len(r[name])) for r in rows])
    sources = padded("source", 1)
    return dict(input_ids=sources, attention_mask=(sources != 1).long(), labels=padded("target", -100))


def smoothed_sum(model, batch, smoothing):
    """The formula of transformers' LabelSmoother, as a sum over the labels."""
    logp = model(**batch).logits.log_softmax(-1)
    keep = batch["labels"] != -100
    nll = -logp.gather(-1, batch["labels"].clamp(min=0).unsqueeze(-1)).squeeze(-1)[keep]
    return (1 - smoothing) * nll.sum() + smoothing * -logp.mean(-1)[keep].sum()


def losses_of(data, case, steps, change=0.0):
    model = AutoModelForSeq2SeqLM.from_pretrained(f"{here}/data/trained/bart", dtype=torch.float64).train()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1 + change * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    rests = {n for n, _ in model.named_parameters() if "norm" in n or n.endswith(".bias")}
    decayed = [p for n, p in model.named_parameters() if n not in rests]
    rest = [p for n, p in model.named_parameters() if n in rests]
    groups = [dict(params=decayed, weight_decay=case["weight_decay"]), dict(params=rest, weight_decay=0.0)]
    optimizer = make_optimizer(case["optimizer"], groups, case["learning_rate"])
    scheduler = None
    if not case["optimizer"].get("relative_step"):
        scheduler = get_scheduler(case["schedule"], optimizer, case["warmup"], steps, case["arguments"])
    tokens = sum(len(e["target"]) for e in data)
    made = []
    for step in range(steps):
        optimizer.zero_grad()
        total = 0.0
        for first in 0, 4, 8:
            loss = smoothed_sum(model, micro_batch(data[first:first + 4]), 0.1) / tokens
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), case["max_grad_norm"])
        optimizer.step()
        if scheduler and step + 1 < steps:
            scheduler.step()
        made.append(total)
    return made


def losses():
    data, steps, cases = examples(), 200, []
    rates = dict(adamw=0.001, adafactor=0.002, adafactor_scaled=0.02, adafactor_moment=0.002)
    for name, options in optimizers.items():
        cases.append(dict(case=name, optimizer=options, learning_rate=rates.get(name, 0.03), schedule="linear", warmup=10, arguments={}))
    for name, arguments in dict(cosine={}, cosine_with_restarts=dict(num_cycles=3), polynomial=dict(power=2.0, lr_end=1e-5), constant={},
                                constant_with_warmup={}, inverse_sqrt={}, cosine_with_min_lr=dict(min_lr_rate=0.1),
                                warmup_stable_decay=dict(num_decay_steps=60, min_lr_ratio=0.1)).items():
        cases.append(dict(case=name, optimizer=adamw, learning_rate=0.001, schedule=name, warmup=20, arguments=arguments))
    for case in cases:
        case.update(weight_decay=0.05, max_grad_norm=1.0)
        case["losses"] = losses_of(data, case, steps)
        print(case["case"], case["losses"][0], case["losses"][-1])
    return dict(examples=data, label_smoothing=0.1, batch_size=4, accumulation=3, cases=cases)


if __name__ == "__main__":
    out = sys.argv[1]
    write(f"{out}/schedules.json", schedules())
    write(f"{out}/updates.json", updates())
    write(f"{out}/losses.json", losses())
