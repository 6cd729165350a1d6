"""Reads exports with transformers 4 and saves what it computes; runs in an environment of its own.

Usage: transformers4_logits.py OUTPUT COUNT FOLDER... OUTPUT, a safetensors file, gets the float32
logits [COUNT, vocabulary] of the tokens 1, 2, 3, ... by each folder's place in the list.
"""

import sys

import torch
import transformers
from safetensors.torch import save_file

assert transformers.__version__.startswith("4."), transformers.__version__
output, count, folders = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
logits = {}
for place, folder in enumerate(folders):
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, torch_dtype=torch.float32, output_loading_info=True
    )
    wrong = {name: info[name] for name in ("missing_keys", "unexpected_keys") if info[name]}
    assert not wrong, (folder, wrong)
    with torch.no_grad():
        logits[str(place)] = model(torch.arange(1, count + 1).unsqueeze(0)).logits[0].contiguous()
save_file(logits, output)
