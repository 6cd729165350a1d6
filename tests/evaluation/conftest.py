"""Small models and real probes that the evaluation tests share."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from megatron_in2.conversion.tokenizer_files import write_tokenizer_files
from megatron_in2.evaluation.probing.build import BuildConfig, build_probes
from megatron_in2.templates.film import FILM
from megatron_in2.tokenizers.base import Tokenizer
from megatron_in2.tokenizers.load import load_tokenizer
from tests.bases import write_own_template
from tests.chat_templates import LLAMA_31

LONGEST = 2048  # tokens that the models can take
torch.set_num_threads(1)  # its matrices are too small to share among cores


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, small_tokenizer: Tokenizer) -> Path:
    """A Mistral of random weights in Hugging Face format, its tokenizer beside it."""
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=small_tokenizer.vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=LONGEST,
        sliding_window=None,
    )
    folder = tmp_path_factory.mktemp("model")
    MistralForCausalLM(config).save_pretrained(folder)
    write_tokenizer_files(folder, small_tokenizer, FILM, LONGEST)
    return folder


@pytest.fixture(scope="session")
def own_model(tmp_path_factory: pytest.TempPathFactory, llama3: Path) -> Path:
    """A model whose base has a chat template of its own, with control tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("own")
    write_own_template(llama3, folder, LLAMA_31)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=load_tokenizer(str(folder)).vocab_size,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=LONGEST,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


Serve = Callable[..., str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start fake_endpoint.py as a process; returns its base URL."""
    running = []

    def start(seen: float, fail_after: int = -1) -> str:
        command = [sys.executable, str(Path(__file__).with_name("fake_endpoint.py"))]
        process = subprocess.Popen(
            [*command, str(seen), str(fail_after)], stdout=subprocess.PIPE, text=True
        )
        running.append(process)
        assert process.stdout
        return f"http://127.0.0.1:{int(process.stdout.readline())}/v1"

    yield start
    for process in running:
        process.terminate()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="session")
def probes(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """A folder with probes of the three tasks, built from pieces in the published format."""
    folder = tmp_path_factory.mktemp("probes")
    files = {
        "document_sentences": [
            {"sentence": f"Entry {n} tells of matter {n}, as it was noted.", "piece": f"{n}, as it"}
            for n in range(1000, 1200)
        ],
        "code_functions": [
            {
                "function_name": f"work_{n}",
                "function_define": f"    a = {n}\n    b = a ** {n}\n    return b",
                "piece": f"b = a ** {n}",
            }
            for n in range(1000, 1200)
        ],
        "database_entities": [
            {"id": f"Q{n}", "label": f"thing {n}", "dcpt": f"kind of {n}."}
            for n in range(1000, 1200)
        ],
    }
    for name, records in files.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, records)))
    for task in ("document", "code", "database"):
        config = BuildConfig(task=task, context_tokens=4000, units=60, sets=2)
        assert build_probes(folder, folder, config, tokenizer, FILM) == (120, 0)
    return folder
