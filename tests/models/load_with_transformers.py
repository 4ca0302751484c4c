# load_with_transformers.py FOLDER [make|make_base]: loads a checkpoint folder with transformers and writes, as float64, the
# logits of the batch in FOLDER/batch.json to FOLDER/logits.txt. Fails for missing, unexpected or misshapen weights.
# make: first writes random weights for FOLDER/config.json; make_base: under the names of the model without an output.
import json
import sys

import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM

torch.set_num_threads(1)
folder = sys.argv[1]
make = sys.argv[2] if len(sys.argv) > 2 else None
if make:
    torch.manual_seed(1)
    model = AutoModelForSeq2SeqLM.from_config(AutoConfig.from_pretrained(folder)).to(torch.float64)
    with torch.no_grad():
        for x in list(model.parameters()) + ([model.final_logits_bias] if make == "make" else []):
            x += 0.1 * torch.randn_like(x)
    (model.model if make == "make_base" else model).save_pretrained(folder)
model, info = AutoModelForSeq2SeqLM.from_pretrained(folder, torch_dtype=torch.float64, output_loading_info=True)
wrong = {k: v for k, v in info.items() if v}
if wrong:
    sys.exit(f"from_pretrained reports {wrong}")
batch = {k: torch.tensor(v) for k, v in json.load(open(f"{folder}/batch.json")).items()}
with torch.no_grad():
    logits = model.eval()(**batch).logits
open(f"{folder}/logits.txt", "w").write("\n".join(repr(x) for x in logits.reshape(-1).tolist()))
