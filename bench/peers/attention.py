"""Cross-attention in torch, forward and backward, on the inputs of attention_timing.hpp.

    sdpa         scaled_dot_product_attention over the whole source
    loop         segmented recurrent attention as its authors run it, a step of the decoder at a time
    vectorised   the same algebra, the queries of one segment in one product

The job's "ours" is a file of this library's output and gradients; "difference" is the largest from them,
each relative to the largest value of its tensor, or null without that file.
"""
import os
import sys
import time

import numpy as np
import torch
from rounds import job, serve

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tests", "reference"))
from attention import segment_index, segmented_recurrent  # noqa: E402

job = job()
B, H, D, M, N, L = (job[name] for name in ("B", "H", "D", "M", "N", "L"))
torch.set_num_threads(job["threads"])
device = job.get("device", "cpu")
finish = torch.cuda.synchronize if device == "cuda" else lambda: None


def made(shape, seed, scale=1.0):
    mask = np.uint64(0xFFFFFFFF)
    h = (np.arange(np.prod(shape), dtype=np.uint64) + np.uint64(seed * 0x9E3779B9)) * np.uint64(0x85EBCA6B) & mask
    h = (h ^ h >> np.uint64(16)) * np.uint64(0xC2B2AE35) & mask
    x = ((h ^ h >> np.uint64(16)) % np.uint64(9)).astype(np.float32) - 4
    return torch.from_numpy(x / 4 * np.float32(scale)).view(*shape).to(device).requires_grad_()


q, k, v, d_out = (made((B, H, n, D), seed) for seed, n in enumerate((M, N, N, M), 1))
weight = made((D, D), 5, 0.25)
leak, threshold = (torch.tensor(0.125, device=device, requires_grad=True) for _ in range(2))
inputs = [q, k, v, weight, leak, threshold]


def sdpa():
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=1.0)


def loop():
    return segmented_recurrent(q, k, v, size=L, weight=weight, leak=leak, threshold=threshold)


def vectorised():
    assert N % L == 0, "whole segments"
    S = N // L
    visited, groups = torch.tensor([segment_index(i, S, M) for i in range(M)]).unique(return_counts=True)
    visited = visited.to(device)
    assert (groups == groups[0]).all(), "every visited segment has as many queries"
    k_s, v_s = (x.view(B, H, S, L, D)[:, :, visited] for x in (k, v))
    q_s = q.view(B, H, len(visited), -1, D)
    k_t = k_s.transpose(-1, -2)
    x = ((k.transpose(-1, -2) @ v).unsqueeze(2) - k_t @ v_s) @ weight.transpose(-1, -2)
    membrane, fired = torch.zeros_like(x[:, :, 0]), []
    for x_j in x.unbind(2):
        membrane = leak * membrane + x_j
        u = membrane / threshold - 1
        fired.append(torch.relu(u))
        membrane = membrane - threshold * (u > 0).to(u.dtype)
    complement = q_s @ torch.stack(fired, 2) / k.norm(dim=2).view(B, H, 1, 1, D)
    return ((q_s @ k_t).softmax(-1) @ v_s + complement).view(B, H, M, D)


compute = {"sdpa": sdpa, "loop": loop, "vectorised": vectorised}[job["kind"]]


def difference(out):
    results = [out, *(x.grad for x in inputs if x.grad is not None)]
    ours, at, worst = np.fromfile(job["ours"], dtype=np.float32), 0, 0.0
    for theirs in results:
        theirs = theirs.detach().cpu().numpy().ravel()
        worst = max(worst, float(np.abs(ours[at:at + theirs.size] - theirs).max() / np.abs(theirs).max()))
        at += theirs.size
    assert at == ours.size, "the file holds other tensors"
    return worst


def one_round():
    seconds, found = [], None
    for i in range(job["repetitions"] + 1):
        for x in inputs:
            x.grad = None
        finish()
        start = time.perf_counter()
        out = compute()
        out.backward(d_out)
        finish()
        if i > 0:
            seconds.append(time.perf_counter() - start)
        elif job.get("ours"):
            found = difference(out)
    return dict(seconds=seconds, difference=found)


serve(one_round)
