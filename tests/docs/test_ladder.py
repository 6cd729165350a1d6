"""The ladder's configurations are the paper's, over a part of its data, and can be run."""

from dataclasses import replace

import pytest

from megatron_in2.commands.parser import CommandParser, config_of
from megatron_in2.training.config import TrainConfig
from tests.conftest import ROOT
from tests.docs.ladder import LADDER, RUNGS, read_config, read_synthesis, rung

SHARES = {"1pct": 0.01, "10pct": 0.1, "100pct": 1.0}


@pytest.mark.parametrize("name", RUNGS)
def test_a_rung_is_a_part_of_the_papers_data(name: str) -> None:
    config, paper = read_config(name), read_synthesis(ROOT / "configs" / "in2_film.yaml")
    config.validate()
    for kind, count in paper.mixture.counts().items():
        assert config.mixture.counts()[kind] == count * SHARES[name]
    corpus = replace(config.corpus, max_documents=paper.corpus.max_documents)
    assert replace(config, mixture=paper.mixture, corpus=corpus) == paper


@pytest.mark.parametrize("name", RUNGS)
def test_a_rung_trains_as_the_paper_does(name: str) -> None:
    def read(path: str) -> TrainConfig:
        options = CommandParser("", TrainConfig).read(["--config", str(ROOT / "configs" / path)])
        return config_of(options, TrainConfig)

    config = read(f"ladder/{name}/training.yaml")
    paper = read("film7b.yaml" if name == "100pct" else "film7b_8gpu.yaml")
    for section in ("model", "data", "parallel", "optimizer", "schedule", "runtime"):
        assert getattr(config, section) == getattr(paper, section), section


def test_the_figures_agree_with_what_is_known_otherwise() -> None:
    """The paper's 14K steps of 128 samples, and the mixture that was really planned and packed."""
    whole = rung("100pct")
    assert whole.samples / 128 == pytest.approx(13_672, abs=1)
    assert whole.samples / whole.steps == pytest.approx(137, rel=0.03)
    assert whole.tokens == pytest.approx(4 * 6.49e9, rel=0.01)
    assert 5_000 < whole.dollars("gpt-4-turbo") < 10_000
    assert 100 < whole.dollars("gpt-4o-mini") < 200
    assert len(list(LADDER.iterdir())) == len(RUNGS)
