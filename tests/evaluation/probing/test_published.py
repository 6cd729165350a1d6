"""The published data set, read through ``datasets`` from a local copy of its form."""

import json
from pathlib import Path

import pytest

from megatron_in2.errors import InputError
from megatron_in2.evaluation.probing.published import write_published_probes
from megatron_in2.evaluation.probing.score import Grouping, score_predictions

CARD = """---
configs:
- config_name: default
  data_files:
  - split: {split}
    path: rows.jsonl
---
"""


def _dataset(folder: Path, split: str, rows: list[dict]) -> Path:
    folder.mkdir()
    (folder / "README.md").write_text(CARD.format(split=split))
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def test_published_rows_become_probes(tmp_path: Path) -> None:
    # Published rows hold a single blank where a field is absent.
    rows = [
        {
            "prompt": f"[INST] … {n} [/INST]",
            "completion": " ",
            "label": f"thing {n}",
            "description": "a kind.",
            "position_id": n,
            "set_id": 1,
        }
        for n in range(3)
    ]
    folder = _dataset(tmp_path / "published", "database_forward_32k", rows)
    assert write_published_probes(str(folder), tmp_path / "out") == {"database": 3}
    labels = tmp_path / "out" / "database.jsonl"
    first = json.loads(labels.read_text().splitlines()[0])
    assert first == {
        "prompt": "[INST] … 0 [/INST]",
        "completion": "thing 0\na kind.",
        "position_id": 0,
        "set_id": 1,
        "units": 3,
        "task": "database",
    }
    predictions = tmp_path / "p.jsonl"
    predictions.write_text('{"samples": ["Thing 0"]}\n{"samples": ["A Kind"]}\n{"samples": [""]}')
    assert score_predictions(labels, predictions, Grouping()).average == pytest.approx(2 / 3)


def test_other_data_sets_are_refused(tmp_path: Path) -> None:
    folder = _dataset(tmp_path / "other", "train", [{"prompt": "x", "position_id": 0}])
    with pytest.raises(InputError, match="has splits train, none of"):
        write_published_probes(str(folder), tmp_path / "out")
    with pytest.raises(InputError, match=r"data set .*absent cannot be read"):
        write_published_probes(str(tmp_path / "absent"), tmp_path / "out")
    row = {"prompt": "x", "completion": "y", "position_id": 0}
    folder = _dataset(tmp_path / "lacking", "code_backward_32k", [row])
    with pytest.raises(InputError, match="lacks or misstates 'set_id'"):
        write_published_probes(str(folder), tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.jsonl"))
