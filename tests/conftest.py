"""Shared fixtures: tokenizers, a small real corpus, the commands as a user runs them."""

import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece

from megatron_in2.processes import STOP_SIGNALS
from megatron_in2.synthesis.corpus.python_texts import python_texts
from megatron_in2.tokenizers.base import Tokenizer
from megatron_in2.tokenizers.load import load_tokenizer
from tests import bases

ROOT = Path(__file__).resolve().parent.parent
RunTool = Callable[..., subprocess.CompletedProcess[str]]

# A shell lets its background jobs ignore Ctrl-C, and nohup its program SIGHUP; whatever they start
# ignores it too. Tests that send a signal must not hang where the test run itself is such a job.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """The real 32,000-piece Mistral v1 model."""
    return load_tokenizer("mistral-v1")


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Real English prose."""
    return [text for _, text in python_texts()]


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Path:
    """The prose as JSON lines."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.fixture(scope="session")
def small_tokenizer(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Tokenizer:
    """A BPE model of 1,003 pieces with Mistral's settings: an odd size, so TP2 must pad it."""
    prefix = tmp_path_factory.mktemp("tokenizer") / "small"
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter("\n".join(texts[:400]).splitlines()),
        model_prefix=str(prefix),
        vocab_size=1003,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=True,
        minloglevel=2,
    )
    return load_tokenizer(f"{prefix}.model")


@pytest.fixture(scope="session")
def llama3(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Path:
    """A directory with a small tokenizer of Llama 3's kind."""
    return bases.write_llama3(tmp_path_factory.mktemp("base") / "llama3", texts[:300])


@pytest.fixture(scope="session")
def qwen(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Path:
    """A directory with a small tokenizer of Qwen's kind."""
    return bases.write_qwen(tmp_path_factory.mktemp("base") / "qwen", texts[:300])


@pytest.fixture(scope="session")
def tekken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the real Tekken of Mistral-Nemo."""
    return bases.write_tekken(tmp_path_factory.mktemp("base") / "tekken")


@pytest.fixture(scope="session")
def pieces() -> Path:
    """The published VaL probing pieces, where the machine has them."""
    folder = os.environ.get("VALPROBING_PIECES")
    if not folder:
        pytest.skip("VALPROBING_PIECES names no folder with the published probe pieces")
    return Path(folder)


@pytest.fixture(scope="session")
def run_tool() -> RunTool:
    """Run a command of tools/ as its own process."""

    def run(
        name: str, *arguments: object, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(ROOT / "tools" / f"{name}.py"), *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> RunTool:
    """Run a file of tools/ as ``python tools/NAME.py`` does, but in this process."""

    def run(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        script = str(ROOT / "tools" / f"{name}.py")
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        capsys.readouterr()
        handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        try:
            with pytest.raises(SystemExit) as ended:
                runpy.run_path(script, run_name="__main__")
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        printed = capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return subprocess.CompletedProcess(sys.argv, code, printed.out, printed.err)

    return run


def assert_refused(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """Bad input ends with exit code 2 and one clear line on stderr that names what is wrong."""
    assert result.returncode == 2, result.stderr
    complaint = [line for line in result.stderr.splitlines() if "error: " in line]
    assert len(complaint) == 1, result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in complaint[0], complaint[0]


# Whose tests start many processes: they come first, so that short tests fill the end.
LONG_FOLDERS = ("tests/slurm/", "tests/training/", "tests/test_end_to_end.py", "tests/checkpoint/")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep a file's tests on one worker, and all Slurm tests: a machine has one Slurm."""
    items.sort(key=lambda item: [not item.nodeid.startswith(each) for each in LONG_FOLDERS])
    for item in items:
        folder, _, file = item.nodeid.partition("::")[0].rpartition("/")
        group = folder if folder == "tests/slurm" else f"{folder}/{file}"
        item.add_marker(pytest.mark.xdist_group(group))
