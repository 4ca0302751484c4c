# SPDX-License-Identifier: Apache-2.0
"""Reads FOLDER/ours.safetensors with the reference implementation and writes FOLDER/theirs.safetensors from it."""

import sys

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

folder = sys.argv[1]
x = np.array([1, -0.1, 3e-5, 60000, 5, 6])
tensors = load_file(folder + "/ours.safetensors")
assert sorted(tensors) == ["empty", "f16", "f32", "f64", "ids", "scalar"], sorted(tensors)
for name, expected in {
    "f64": x.reshape(2, 3),
    "f32": x.astype(np.float32).reshape(3, 2),
    "f16": x.astype(np.float16),
    "scalar": x[0],
    "empty": np.zeros((0, 2), np.float32),
    "ids": np.array([-3, 4]),
}.items():
    assert tensors[name].dtype == expected.dtype, name
    assert tensors[name].shape == expected.shape, name
    assert np.array_equal(tensors[name], expected), name
with safe_open(folder + "/ours.safetensors", "np") as file:
    assert file.metadata() == {"format": "pt"}

tensors["i32"] = tensors["ids"].astype(np.int32)
save_file(tensors, folder + "/theirs.safetensors", metadata={"format": "np"})
