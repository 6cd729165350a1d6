"""Hugging Face's ``MistralForCausalLM`` with torch's AdamW, a contender of ``training.py``."""

import sys
from pathlib import Path

import torch
from transformers import MistralForCausalLM

from tools.benchmarks.contenders.turns import PeerRun, take_turns


def main() -> None:
    folder = Path(sys.argv[1])
    model = MistralForCausalLM.from_pretrained(
        folder / "hf", attn_implementation="sdpa", dtype=torch.float32
    )
    run = PeerRun(folder, model.train())

    def row_loss(tokens: torch.Tensor, labels: torch.Tensor, answer_tokens: int) -> torch.Tensor:
        output = model(
            input_ids=tokens, labels=labels, num_items_in_batch=answer_tokens, use_cache=False
        )
        loss: torch.Tensor = output.loss
        return loss

    take_turns(lambda number: run.step(number, row_loss))


if __name__ == "__main__":
    main()
