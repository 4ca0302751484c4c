# load_with_transformers.py FOLDER: loads a checkpoint folder with transformers and writes, as float64, the logits of the
# batch in FOLDER/batch.json to FOLDER/logits.txt. Fails for missing, unexpected or misshapen weights.
import json
import sys

import torch
from transformers import T5ForConditionalGeneration

torch.set_num_threads(1)
folder = sys.argv[1]
model, info = T5ForConditionalGeneration.from_pretrained(folder, torch_dtype=torch.float64, output_loading_info=True)
wrong = {k: v for k, v in info.items() if v}
if wrong:
    sys.exit(f"from_pretrained reports {wrong}")
batch = {k: torch.tensor(v) for k, v in json.load(open(f"{folder}/batch.json")).items()}
with torch.no_grad():
    logits = model.eval()(**batch).logits
open(f"{folder}/logits.txt", "w").write("\n".join(repr(x) for x in logits.reshape(-1).tolist()))
