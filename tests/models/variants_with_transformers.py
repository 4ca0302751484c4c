# variants_with_transformers.py PARENT DTYPE...: loads every folder of PARENT that has a batch.json as a user does, with
# trust_remote_code, in each DTYPE, and writes DTYPE.json into it: logits of the batch; the norm of the gradient of its
# loss; the tokens of greedy search with and without a cache, and of beams. Fails for missing, unexpected or misshapen
# weights.
import json
import os
import sys
from pathlib import Path

parent = Path(sys.argv[1])
os.environ["HF_MODULES_CACHE"] = str(parent / "modules")
os.environ["HF_HUB_OFFLINE"] = "1"
import torch  # noqa: E402
from transformers import AutoConfig, AutoModelForSeq2SeqLM  # noqa: E402

torch.set_num_threads(1)


def results(path, dtype):
    model, info = AutoModelForSeq2SeqLM.from_pretrained(
        path, torch_dtype=getattr(torch, dtype), output_loading_info=True, trust_remote_code=True)
    wrong = {k: v for k, v in info.items() if v}
    if wrong:
        sys.exit(f"{path.name}: from_pretrained reports {wrong}")
    config = AutoConfig.from_pretrained(path, trust_remote_code=True)
    if type(model).__name__ != config.architectures[0]:
        sys.exit(f"{path.name}: a {type(model).__name__} was made of {config.architectures}")
    batch = {k: torch.tensor(v) for k, v in json.load(open(path / "batch.json")).items()}
    source = {k: batch[k] for k in ("input_ids", "attention_mask")}
    out = model.eval()(**batch)
    out.loss.backward()
    squares = [p.grad.double().square().sum() for p in model.parameters() if p.grad is not None]
    found = {"logits": out.logits.double().reshape(-1).tolist(), "gradient_norm": sum(squares).sqrt().item()}
    for name, options in {"cached": {}, "uncached": {"use_cache": False}, "beams": {"num_beams": 3}}.items():
        ids = model.generate(**source, max_length=10, min_length=10, do_sample=False, **options)
        found[name] = ids.reshape(-1).tolist()
    return found


for path in sorted(p.parent for p in parent.glob("*/batch.json")):
    for dtype in sys.argv[2:]:
        json.dump(results(path, dtype), open(path / f"{dtype}.json", "w"))
