r"""Check all that a run has saved: every file of every checkpoint, and its metrics.

Example:
    %(prog)s runs/film7b

Reads every file once and compares it with the size and hash that were sealed when it was saved.
Changes nothing. Exit codes: 0 sound, 2 damaged.
"""

from collections.abc import Sequence
from pathlib import Path

from megatron_in2.commands.parser import CommandParser, run_command
from megatron_in2.errors import EXIT_BAD_INPUT
from megatron_in2.training.checks.whole_run import examine_run


def main(arguments: Sequence[str] | None = None) -> int:
    parser = CommandParser(__doc__)
    parser.add_argument("folder", type=Path, help="checkpoint.dir of the run")
    options = parser.read(arguments)
    is_sound = True
    for finding in examine_run(options.folder):
        print(f"{finding.subject:<16}  {finding.result}", flush=True)
        is_sound = is_sound and not finding.is_problem
    return 0 if is_sound else EXIT_BAD_INPUT


if __name__ == "__main__":
    run_command(main)
