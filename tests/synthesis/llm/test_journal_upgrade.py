"""Journals of version 1 hold paid answers: they are rewritten, continued, and never ignored.

The files under version1/ were written by version 1 against the test server: 14 fine-grained and 3
integration questions about tests/version1/corpus.jsonl.
"""

import asyncio
import contextlib
import gzip
import json
import shutil
import sqlite3
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from megatron_in2.errors import InputError
from megatron_in2.segment_store import SegmentStore
from megatron_in2.shards import Shard
from megatron_in2.synthesis.config import (
    CompositionConfig,
    CorpusConfig,
    OpenAIConfig,
    SegmentConfig,
    SynthesisConfig,
)
from megatron_in2.synthesis.corpus.documents import corpus_texts
from megatron_in2.synthesis.corpus.store_stage import build_store
from megatron_in2.synthesis.llm.journal.journal import Journal
from megatron_in2.synthesis.llm.writer import LanguageModelWriter, build_language_model_writer
from megatron_in2.synthesis.questions.evidence import EvidenceWalk
from megatron_in2.synthesis.questions.writer import Draft, Evidence
from megatron_in2.tokenizers.base import Tokenizer
from megatron_in2.tokenizers.load import load_tokenizer
from tests.conftest import ROOT

KEPT = Path(__file__).with_name("version1")
RUN: dict[str, Any] = json.loads((KEPT / "online.json").read_text())
pytestmark = pytest.mark.usefixtures("api_key")


@pytest.fixture(scope="module")
def old_tokenizer() -> Tokenizer:
    return load_tokenizer(str(ROOT / "tests" / "version1" / "tokenizer.model"))


@pytest.fixture(scope="module")
def evidence(
    old_tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Evidence]:
    """All evidence of the corpus by its id, which does not depend on the version."""
    folder = ROOT / "tests" / "version1"
    config = SynthesisConfig(
        corpus=CorpusConfig(paths=[str(folder / "corpus.jsonl")]),
        segments=SegmentConfig(min_tokens=24),
        composition=CompositionConfig(min_tokens=100, max_tokens=512),
        tokenizer_model=str(folder / "tokenizer.model"),
    )
    output = tmp_path_factory.mktemp("store") / "x.jsonl"
    texts = partial(corpus_texts, config.corpus)
    store: SegmentStore = build_store(config, Shard(), old_tokenizer, output, 1, texts)
    walk = EvidenceWalk(store, 512, 1234)
    return {
        each.id: each
        for kind in ("fine_grained", "integration")
        for each in walk.candidates(kind)
        if isinstance(each, Evidence)
    }


def _kept(name: str, folder: Path) -> Path:
    path = folder / "x.sqlite"
    path.write_bytes(gzip.decompress((KEPT / name).read_bytes()))
    return path


def _config(url: str, **changes: Any) -> OpenAIConfig:
    return OpenAIConfig(model="gpt-4o-mini", base_url=url, first_backoff_seconds=0.02, **changes)


def _write(
    config: OpenAIConfig,
    tokenizer: Tokenizer,
    journal: Path,
    evidence: list[Evidence],
    batch: bool = False,
) -> list[Draft]:
    async def work(writer: LanguageModelWriter) -> list[Draft]:
        try:
            return await asyncio.gather(*map(writer.write, evidence))
        finally:
            writer.stop()
            await writer.close()

    return asyncio.run(work(build_language_model_writer(config, batch, tokenizer, journal, None)))


@pytest.mark.parametrize("name", ["online.sqlite.gz", "plain.sqlite.gz"])
def test_answers_of_version_1_are_used_and_not_paid_for_again(
    tmp_path: Path,
    start_server,
    old_tokenizer: Tokenizer,
    evidence: dict[str, Evidence],
    name: str,
) -> None:
    server = start_server()
    asked = [evidence[entry[0]] for entry in RUN["drafts"]]
    for _ in range(2):  # when it is rewritten, and when it has been
        journal = tmp_path / "x.sqlite"
        if not journal.exists():
            _kept(name, tmp_path)
        drafts = _write(_config(server.url), old_tokenizer, journal, asked)
        assert server.stats()["tries"] == 0
        for draft, (_, question, answer, problem) in zip(drafts, RUN["drafts"], strict=True):
            assert draft.problem == problem
            if problem is None:
                assert (draft.question, draft.answer) == (question, answer)
    # What it does not hold is asked in the present wording, and only that.
    others = [each for each in evidence.values() if each not in asked][:5]
    _write(_config(server.url), old_tokenizer, journal, [*asked, *others])
    assert server.stats()["tries"] == 5


def test_costs_and_failures_are_taken_over(
    tmp_path: Path, start_server, old_tokenizer: Tokenizer, evidence: dict[str, Evidence]
) -> None:
    path = _kept("online.sqlite.gz", tmp_path)
    with contextlib.closing(Journal(path)) as journal:
        summary = journal.summary()
    wanted = RUN["summary"]
    for field in ("attempts", "lost", "sent_unanswered", "completion_tokens", "refused"):
        assert getattr(summary, field) == wanted[field]
    assert summary.cost == pytest.approx(wanted["cost"])
    assert summary.possible_cost == pytest.approx(wanted["possible_cost"])
    # Version 1 counted a refusal as an answer, for good; now it is asked once more.
    assert (summary.answers, summary.given_up) == (wanted["answers"] - 1, 1)
    server = start_server()
    asked = [evidence[RUN[name]] for name in ("lost", "limited", "sent", "refused")]
    drafts = _write(_config(server.url), old_tokenizer, path, asked)
    assert server.stats()["tries"] == 4
    assert all("refused it" not in str(draft.problem) for draft in drafts)


def test_an_open_batch_is_collected(
    tmp_path: Path, start_server, old_tokenizer: Tokenizer, evidence: dict[str, Evidence]
) -> None:
    path = _kept("batch.sqlite.gz", tmp_path)
    with contextlib.closing(sqlite3.connect(path)) as old:
        rows = old.execute("SELECT hash, payload FROM requests").fetchall()
    server = start_server()
    server.put_batch("0123456789abcdef0123456789abcdef", dict(rows))
    asked = [evidence[entry[0]] for entry in RUN["drafts"][:6]]
    config = _config(server.url, batch_poll_seconds=0.02)
    drafts = _write(config, old_tokenizer, path, asked, batch=True)
    stats = server.stats()
    assert (stats["batches"], stats["billed"], stats["files"]) == (1, 6, 2)
    assert [draft.question for draft in drafts] == [entry[1] for entry in RUN["drafts"][:6]]


def test_a_crash_while_rewriting_leaves_the_old_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _kept("online.sqlite.gz", tmp_path)
    before = path.read_bytes()

    def crash(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("megatron_in2.synthesis.llm.journal.upgrade._copy_attempts", crash)
        with pytest.raises(InputError, match="disk is full"):
            Journal(path)
    assert [each.name for each in tmp_path.iterdir()] == ["x.sqlite"]
    copy = shutil.copy(path, tmp_path / "copy.sqlite")
    assert len(path.read_bytes()) == len(before)
    with contextlib.closing(sqlite3.connect(copy)) as old:
        assert old.execute("SELECT COUNT(*) FROM answers WHERE hash != ''").fetchone()[0] == 17
    with contextlib.closing(Journal(path)) as journal:
        assert journal.summary().answers == 16
