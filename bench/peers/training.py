"""Training steps of transformers: forward, backward, AdamW; float32, dropout 0, the ids of training_step.cpp."""
import resource
import time

import torch
from rounds import job, serve
from transformers import AutoConfig, AutoModelForSeq2SeqLM

job = job()
torch.set_num_threads(job["threads"])
config = AutoConfig.from_pretrained(job["model"])
for name in ("dropout", "dropout_rate", "attention_dropout", "activation_dropout"):
    if hasattr(config, name):
        setattr(config, name, 0.0)
model = AutoModelForSeq2SeqLM.from_pretrained(job["model"], config=config, dtype=torch.float32)
device = job.get("device", "cpu")
model.to(device).train()
finish = torch.cuda.synchronize if device == "cuda" else lambda: None
compute = torch.compile(model) if job["compile"] else model


def ids(width):
    i = torch.arange(job["batch"] * width)
    x = 3 + i * 7919 % (config.vocab_size - 103)
    x[(i + 1) % width == 0] = config.eos_token_id
    return x.view(job["batch"], width).to(device)


source = ids(job["source"])
data = dict(input_ids=source, attention_mask=torch.ones_like(source), labels=ids(job["target"]))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0)


def step():
    """Seconds of the whole and of the optimiser alone, and the loss."""
    start = time.perf_counter()
    optimizer.zero_grad()
    loss = compute(**data).loss
    loss.backward()
    finish()
    middle = time.perf_counter()
    optimizer.step()
    finish()
    end = time.perf_counter()
    return end - start, end - middle, float(loss.detach())


first_losses = []  # of the steps that a fresh process of this library takes too


def one_round():
    if not first_losses:
        first_losses.append(step()[2])
    steps = [step() for _ in range(job["steps"])]
    if len(first_losses) == 1:
        first_losses.extend(loss for _, _, loss in steps)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return dict(seconds=[s[0] for s in steps], optimizer_seconds=[s[1] for s in steps], losses=first_losses,
                peak_bytes=peak)


serve(one_round)
