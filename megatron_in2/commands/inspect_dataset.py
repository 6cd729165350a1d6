r"""Look into a packed dataset: its numbers, its rows as text, trained tokens marked.

Examples:
    %(prog)s runs/in2 --row 3
    %(prog)s runs/in2 --verify
    %(prog)s runs/in2 --row 0 1 2 --html rows.html --plot lengths.png
    %(prog)s runs/in2 --mixture --rows-per-step 64 --together short instruction --plot steps.png

"--verify" re-reads everything: hashes, indices, twins, records, borders, ids, masks. "--mixture"
shows how many tokens each step of a run is trained on, and the share of each kind of sample.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megatron_in2.commands.parser import CommandParser, run_command
from megatron_in2.data.inspection.check import check_dataset
from megatron_in2.data.inspection.mixture import as_table, epoch_mixture, plot_mixture
from megatron_in2.data.inspection.show import SampleView, as_text, as_values, view_row, write_page
from megatron_in2.data.inspection.statistics import plot, summary
from megatron_in2.data.packed.manifest import read_manifest
from megatron_in2.errors import EXIT_BAD_INPUT
from megatron_in2.parallel.imports import without_unused_imports
from megatron_in2.tokenizers.base import Tokenizer
from megatron_in2.tokenizers.load import load_tokenizer


def main(arguments: Sequence[str] | None = None) -> int:
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("prefix", type=Path, help="prefix P of the dataset's files")
    add("--row", type=int, nargs="+", default=[], help="rows to show, from 0")
    add("--full", action="store_true", help="show long contexts whole")
    add("--verify", action="store_true", help="re-read and check everything")
    add("--json", action="store_true", help="print JSON for programs")
    add("--html", type=Path, default=None, help="write the rows as a page")
    add("--plot", type=Path, default=None, help="draw lengths and evidence positions, or --mixture")
    add("--mixture", action="store_true", help="show what training steps hold of each kind")
    add("--rows-per-step", type=int, default=64, help="--mixture: schedule.global_batch_rows")
    add("--seed", type=int, default=1234, help="--mixture: runtime.seed, which orders the rows")
    add("--together", nargs="+", default=[], help="--mixture: kinds also shown as if they were one")
    add("--tokenizer-model", default=None, help="where the dataset's tokenizer is now")
    options = parser.read(arguments)
    if options.mixture:
        return _mixture(options)
    manifest = read_manifest(options.prefix)
    tokenizer = load_tokenizer(options.tokenizer_model or manifest.tokenizer)
    if options.verify:
        return _verify(options, tokenizer)
    rows = _rows(options, tokenizer) if options.row else {}
    if options.plot:
        plot(manifest, options.plot)
    if options.html:
        write_page(options.html, str(options.prefix), rows, options.full)
    elif options.json:
        values = [as_values(index, views) for index, views in rows.items()]
        print(json.dumps(values if rows else asdict(manifest), ensure_ascii=sys.stdout.isatty()))
    else:
        for index, views in rows.items():
            print(as_text(index, views, sys.stdout.isatty(), options.full))
        if not rows:
            print(summary(manifest))
    return 0


def _rows(options: Any, tokenizer: Tokenizer) -> dict[int, list[SampleView]]:
    with without_unused_imports():
        from megatron_in2.data.packed.dataset import PackedDataset

    data = PackedDataset(options.prefix)
    data.require_rows(options.row)
    return {index: view_row(data[index], data.manifest, tokenizer) for index in options.row}


def _mixture(options: Any) -> int:
    mixture = epoch_mixture(options.prefix, options.rows_per_step, options.seed)
    if options.plot:
        plot_mixture(mixture, options.plot)
    if options.json:
        print(json.dumps({"kinds": mixture.kinds, "trained_tokens": mixture.trained.tolist()}))
    else:
        print(as_table(mixture, options.rows_per_step, options.together))
    return 0


def _verify(options: Any, tokenizer: Tokenizer) -> int:
    findings = check_dataset(options.prefix, tokenizer)
    if options.json:
        print(json.dumps(asdict(findings)))
    else:
        for problem in findings.problems:
            print(f"problem: {problem}")
        print(
            f"{findings.rows:,} rows, {findings.samples:,} samples, {findings.tokens:,} tokens, "
            f"{findings.learnt_tokens:,} trained on in {findings.spans:,} spans, "
            f"{findings.marked_spans:,} of them directly after a prompt"
        )
        print("FAILED" if findings.problems else "sound")
    return EXIT_BAD_INPUT if findings.problems else 0


if __name__ == "__main__":
    run_command(main)
