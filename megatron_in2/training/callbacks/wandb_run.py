"""Logs a run to Weights & Biases."""

import importlib
import importlib.util
import secrets
from pathlib import Path
from typing import Any

from megatron_in2.errors import InputError
from megatron_in2.files import atomic_file

RUN_ID = "wandb_run_id"  # in the checkpoint folder


def require_wandb(project: str) -> None:
    """Check that the package is installed, without importing it.

    Raises:
        InputError: it is not installed.
    """
    spec = importlib.util.find_spec("wandb")
    if spec is None or spec.origin is None:  # a folder named wandb, which wandb itself creates
        raise InputError(
            f"logging.wandb_project={project} needs the package wandb: install it with pip install "
            'wandb, or set logging.wandb_project=""'
        )


class WandbRun:
    """One Weights & Biases run for one checkpoint folder, continued after a restart.

    A killed and resumed run logs the steps again that it had not saved. Values are therefore
    plotted over ``step``, which they contain, and not over the order in which they were logged.

    Args:
        project: name of the Weights & Biases project.
        folder: the checkpoint folder; it keeps the run's id and wandb's files.
        config: the resolved configuration.

    Raises:
        InputError: Weights & Biases refuses, or cannot be reached.
    """

    def __init__(self, project: str, folder: Path, config: dict[str, Any]) -> None:
        wandb = importlib.import_module("wandb")
        is_offline = wandb.setup().settings.mode == "offline"
        try:
            self._run = wandb.init(
                project=project,
                id=_run_id(folder),
                resume=None if is_offline else "allow",  # offline, syncing resumes by the id
                name=folder.name,
                dir=folder,
                config=config,
                settings=wandb.Settings(
                    silent=True, console="off", x_graphql_retry_max=3, x_graphql_timeout_seconds=20
                ),
            )
        except wandb.errors.Error as error:
            raise InputError(
                f"logging.wandb_project={project}: {error}: log in with wandb login, set "
                "WANDB_MODE=offline, or leave the project empty"
            ) from error
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, values: dict[str, float]) -> None:
        """Log the values of one step."""
        self._run.log({"step": step, **values})

    def close(self) -> None:
        """Send the remaining values and end."""
        self._run.finish()


def _run_id(folder: Path) -> str:
    path = folder / RUN_ID
    if not path.exists():
        with atomic_file(path) as stream:
            stream.write(secrets.token_hex(8))
    return path.read_text(encoding="utf-8").strip()
