"""Reads exports with the real packages; runs in an environment that has them.

Usage: other_trainers.py bridge FILE EOS_ID SEQ_LENGTH OUTPUT
       other_trainers.py trl FILE OUTPUT

``bridge``: megatron-bridge's GPTSFTPackedDataset, all rows in one batch. Its top package imports
models, which need Transformer Engine, so the packages above the reader are entered without their
``__init__``. ``trl``: SFTTrainer's own collator, and its loss of the first row by a tiny Llama;
beside it the mean over the row's samples, each read alone, and the loss without positions.
OUTPUT, an .npz file, gets what came of it.
"""

import importlib.machinery
import sys
import tempfile
import types
from pathlib import Path

import numpy as np
import torch


def bridge(file: str, eos_id: str, seq_length: str, output: str) -> None:
    import megatron

    for name in ("bridge", "bridge.data", "bridge.training", "bridge.training.tokenizers"):
        parent, _, own = f"megatron.{name}".rpartition(".")
        paths = sys.modules[parent].__path__
        spec = importlib.machinery.PathFinder.find_spec(f"megatron.{name}", paths)
        module = types.ModuleType(f"megatron.{name}")
        module.__path__ = list(spec.submodule_search_locations)
        sys.modules[f"megatron.{name}"] = module
        setattr(sys.modules[parent], own, module)
    assert megatron.bridge
    from megatron.bridge.data.datasets.sft import GPTSFTPackedDataset

    class Tokenizer:
        bos_id = 1
        pad_id = 0

    Tokenizer.eos_id = int(eos_id)
    data = GPTSFTPackedDataset(
        file,
        Tokenizer(),
        max_seq_length=int(seq_length),
        pad_to_max_length=True,
        label_key="output",
        truncation_field="input",
        prompt_template="{input} {output}",  # unused, but checked; as its own builder passes it
        pad_cu_seqlens=True,
        pad_seq_to_mult=16,
        pack_metadata_file_path=str(Path(file).with_suffix(".metadata.json")),
    )
    batch = data.collate_fn([data[index] for index in range(len(data))])
    names = ("tokens", "labels", "loss_mask", "position_ids", "cu_seqlens")
    np.savez(output, **{name: batch[name].numpy() for name in names})


def trl(file: str, output: str) -> None:
    from datasets import load_dataset
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    config = LlamaConfig(vocab_size=32_000, num_attention_heads=2, **sizes)
    config.initializer_range = 0.3
    model = LlamaForCausalLM._from_config(config, attn_implementation="sdpa").float()
    rows = load_dataset("parquet", data_files=file, split="train", cache_dir=tempfile.mkdtemp())
    with tempfile.TemporaryDirectory() as folder:
        settings = SFTConfig(
            folder,
            per_device_train_batch_size=1,
            padding_free=True,
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
            use_cpu=True,
            bf16=False,
            report_to=[],
        )
        trainer = SFTTrainer(model, settings, train_dataset=rows, processing_class=tokenizer())
        loader = trainer.data_collator
        batches = [loader([{k: row[k] for k in trainer_columns(trainer)}]) for row in rows]
        first = batches[0]
        with torch.no_grad():
            row_loss = float(trainer.compute_loss(model, dict(first)))
            blind = {name: first[name] for name in ("input_ids", "labels")}
            blind_loss = float(model(**blind).loss)
            alone = by_sample(model, first)
    np.savez(
        output,
        losses=np.array([row_loss, alone, blind_loss]),
        input_ids=np.concatenate([batch["input_ids"][0].numpy() for batch in batches]),
        labels=np.concatenate([batch["labels"][0].numpy() for batch in batches]),
        position_ids=np.concatenate([batch["position_ids"][0].numpy() for batch in batches]),
    )


def trainer_columns(trainer: object) -> list[str]:
    trainer._set_signature_columns_if_needed()
    return trainer._signature_columns


def tokenizer() -> object:
    """Return a tokenizer, which SFTTrainer asks for even where nothing is left to tokenise."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    return PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="</s>", pad_token="</s>")


def by_sample(model: torch.nn.Module, batch: dict) -> float:
    """Return the mean loss of a row's trained tokens, each sample read alone."""
    starts = np.flatnonzero(batch["position_ids"][0].numpy() == 0).tolist()
    total, count = 0.0, 0
    for start, end in zip(starts, [*starts[1:], batch["input_ids"].shape[1]], strict=True):
        labels = batch["labels"][:, start:end]
        trained = int((labels[:, 1:] >= 0).sum())
        if trained:
            loss = model(input_ids=batch["input_ids"][:, start:end], labels=labels).loss
            total, count = total + float(loss) * trained, count + trained
    return total / count


if __name__ == "__main__":
    {"bridge": bridge, "trl": trl}[sys.argv[1]](*sys.argv[2:])
