"""How much each token of a context influences what the model computes at the last one.

The measure of arXiv 2603.10123, which finds a U before any training: the norm of the derivative of
the last position's hidden state with respect to each input embedding.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForCausalLM

from megatron_in2.evaluation.probing.encoding import ProbeEncoder
from megatron_in2.files import read_json_lines, write_json
from megatron_in2.templates.load import read_template_beside
from megatron_in2.tokenizers.load import load_tokenizer

CONTEXTS = 16
_DIRECTIONS = 4  # random ones, whose gradients estimate the norm of the whole derivative
_Curve = npt.NDArray[np.float64]


def write_influence(export: Path, probes: Path, output: Path) -> None:
    """Measure the influence of each position in the first contexts of a file of probes.

    Args:
        export: a Hugging Face checkpoint.
        probes: prompts of one length in tokens, neighbours of one ``set_id`` about one context.
        output: JSON file with a list of floats, one a token: the Frobenius norm of the derivative.
    """
    tokenizer = load_tokenizer(str(export))
    encoder = ProbeEncoder(tokenizer, read_template_beside(export), str(export))
    first = {probe["set_id"]: (where, probe) for where, probe in read_json_lines(probes)}
    model = AutoModelForCausalLM.from_pretrained(export, dtype=torch.float32).eval()
    chance = torch.Generator().manual_seed(0)
    squares = [
        squared_norms(model, encoder.ids(probe)[0], chance)
        for probe in list(first.values())[:CONTEXTS]
    ]
    write_json(output, np.sqrt(np.mean(squares, axis=0)).tolist())


def squared_norms(model: Any, prompt: Sequence[int], chance: torch.Generator) -> _Curve:
    """Return an estimate of each position's squared norm: E |J^T u|^2 is |J|^2 for normal u."""
    embeddings = model.get_input_embeddings()(torch.tensor([prompt])).detach().requires_grad_()
    last = model.model(inputs_embeds=embeddings).last_hidden_state[0, -1]
    total = torch.zeros(len(prompt), dtype=torch.float64)
    for _ in range(_DIRECTIONS):
        direction = torch.randn(len(last), generator=chance)
        (gradient,) = torch.autograd.grad(last @ direction, embeddings, retain_graph=True)
        total += gradient[0].double().square().sum(dim=-1)
    curve: _Curve = (total / _DIRECTIONS).numpy()
    return curve
