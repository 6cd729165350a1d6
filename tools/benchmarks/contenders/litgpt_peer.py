"""litgpt's ``GPT`` with its chunked cross entropy and AdamW, a contender of ``training.py``."""

import json
import sys
from pathlib import Path

import torch
from litgpt.config import Config  # type: ignore[import-not-found]
from litgpt.model import GPT  # type: ignore[import-not-found]
from litgpt.scripts.convert_hf_checkpoint import (  # type: ignore[import-not-found]
    copy_weights_hf_llama,
)
from litgpt.utils import chunked_cross_entropy  # type: ignore[import-not-found]
from safetensors.torch import load_file

from tools.benchmarks.contenders.turns import PeerRun, take_turns

# Positions in a chunk of the head, as in its fine-tuning; its fastest variant here.
HEAD_CHUNK = 128


def main() -> None:
    folder = Path(sys.argv[1])
    sizes = json.loads((folder / "hf" / "config.json").read_text())
    config = Config.from_name(
        "Mistral-7B-Instruct-v0.2",
        n_layer=sizes["num_hidden_layers"],
        n_embd=sizes["hidden_size"],
        n_head=sizes["num_attention_heads"],
        n_query_groups=sizes["num_key_value_heads"],
        head_size=sizes["head_dim"],
        intermediate_size=sizes["intermediate_size"],
        padded_vocab_size=sizes["vocab_size"],
        block_size=sizes["max_position_embeddings"],
        norm_eps=sizes["rms_norm_eps"],
    )
    config.rope_base = int(sizes["rope_parameters"]["rope_theta"])
    model = GPT(config)
    weights: dict[str, torch.Tensor] = {}
    copy_weights_hf_llama(config, {}, weights, load_file(folder / "hf" / "model.safetensors"))
    model.load_state_dict(weights)
    run = PeerRun(folder, model.train())

    def row_loss(tokens: torch.Tensor, labels: torch.Tensor, answer_tokens: int) -> torch.Tensor:
        # Its losses are means over the answer tokens of a row: weight them by their share.
        share = (labels != -100).sum() / answer_tokens
        logits = model(tokens, lm_head_chunk_size=HEAD_CHUNK)
        logits[-1] = logits[-1][..., :-1, :]
        loss: torch.Tensor = chunked_cross_entropy(logits, labels[..., 1:])
        return share * loss

    take_turns(lambda number: run.step(number, row_loss))


if __name__ == "__main__":
    main()
