"""Samples of every form, and datasets packed from them by the command itself."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from megatron_in2.data.packed.dataset import PackedDataset
from megatron_in2.data.packing.config import PreprocessConfig
from megatron_in2.data.packing.preprocess import preprocess
from megatron_in2.synthesis.config import (
    CompositionConfig,
    CorpusConfig,
    MixtureConfig,
    SegmentConfig,
    SynthesisConfig,
)
from megatron_in2.synthesis.pipeline import synthesize

WriteSamples = Callable[[Iterable[dict[str, Any]]], Path]
Pack = Callable[..., PackedDataset]


def text_sample(index: int, context: str | None, question: str, answer: str) -> dict[str, Any]:
    return {
        "id": f"text/{index}",
        "kind": "fine_grained" if context else "short",
        "context": context,
        "question": question,
        "answer": answer,
    }


@pytest.fixture(scope="session")
def recipes(corpus_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recipe samples of up to 2,000 tokens over real prose, with their segment store."""
    config = SynthesisConfig(
        corpus=CorpusConfig(paths=[str(corpus_file)]),
        segments=SegmentConfig(min_tokens=48),
        composition=CompositionConfig(min_tokens=256, max_tokens=2000),
        mixture=MixtureConfig(fine_grained=300, integration=30, short=60),
    )
    path = tmp_path_factory.mktemp("recipes") / "samples.jsonl"
    synthesize(config, path)
    return path


@pytest.fixture(scope="session")
def mixed_records(texts: list[str]) -> list[dict[str, Any]]:
    """Text, chat and parts samples of many lengths over real prose."""
    records: list[dict[str, Any]] = []
    for index, text in enumerate(texts[:240]):
        context = text[:4000]
        if index % 4 == 0:
            records.append(text_sample(index, None, f"Say it: {text[:80]}", "Done."))
        elif index % 4 == 1:
            turns = [
                {"role": "user", "content": context[:500]},
                {"role": "assistant", "content": "First."},
                {"role": "user", "content": "And then?"},
                {"role": "assistant", "content": text[:60] + "."},
            ]
            records.append({"id": f"chat/{index}", "messages": turns})
        elif index % 4 == 2:
            parts = [
                {"text": "[INST] Sum. [/INST]", "learn": False},
                {"text": "wrong", "learn": False},
                {"text": f"no: {text[:40]}", "learn": True},
            ]
            records.append({"id": f"parts/{index}", "parts": parts})
        else:
            records.append(text_sample(index, context, "What is told?", text[-80:] + "."))
    return records


@pytest.fixture
def write_samples(tmp_path: Path) -> WriteSamples:
    """Write samples as JSON lines."""

    def write(records: Iterable[dict[str, Any]]) -> Path:
        path = tmp_path / "samples.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return path

    return write


@pytest.fixture
def pack(tmp_path: Path) -> Pack:
    """Pack sample files and open the training split."""

    def run(*inputs: Path, name: str = "packed", **options: Any) -> PackedDataset:
        options = {"tokenizer_model": "mistral-v1", "seq_length": 2048, **options}
        preprocess(PreprocessConfig(list(inputs), tmp_path / name, **options))
        return PackedDataset(tmp_path / name)

    return run
