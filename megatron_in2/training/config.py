"""The configuration of one training run: one YAML file, every field overridable as an option."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from megatron_in2.architectures.config import MOVED_TO_RUNTIME, ModelConfig
from megatron_in2.architectures.registry import architecture_of
from megatron_in2.choices import require_choices
from megatron_in2.errors import InputError
from megatron_in2.parallel.config import ParallelConfig
from megatron_in2.tokenizers.load import MISTRAL_V1
from megatron_in2.training.inherited import inherited_defaults

Dtype = Literal["float32", "bfloat16"]
Normalisation = Literal["token", "sample"]
Backend = Literal["auto", "torch", "transformer_engine"]
Logits = Literal["answers", "all"]
Recompute = Literal["none", "selective", "full"]
RehearsalMode = Literal["auto", "always", "never"]
Fp8 = Literal["", "hybrid", "e4m3"]
FP8_MULTIPLE = 16  # FP8 matrix products need both dimensions divisible by it


@dataclass(frozen=True)
class DataConfig:
    """The data of a run.

    Args:
        train: prefix of the packed training dataset; or several, each after its weight:
            ``0.7 data/in2 0.3 data/chat``.
        validation: prefix of the packed validation dataset; empty for none.
        probe: prefix of a packed probe dataset; empty for none. Its answers' loss by evidence
            position is measured in the same way.
        tokenizer_model: a Hugging Face directory, a tokenizer.json, a SentencePiece file, or
            mistral-v1; must be the tokenizer of the datasets.
        seq_length: row length in tokens; must be that of the datasets.
    """

    train: str = ""
    validation: str = ""
    probe: str = ""
    tokenizer_model: str = MISTRAL_V1
    seq_length: int = 32768


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, and the normalisation of the loss.

    Args:
        normalisation: token (every answer token of the global batch has the same weight) or sample
            (every sample has, whatever the length of its answer; LongAlign, arXiv 2401.18058).
        lr: peak learning rate (paper: 1e-6).
        min_lr: learning rate at the end of the schedule.
        beta1: decay of the first moment.
        beta2: decay of the second moment.
        eps: AdamW's epsilon.
        weight_decay: on matrices; norms have none.
        clip_grad: largest gradient norm; 0 disables clipping.
        cpu_offload: keep the optimizer's float32 weights and moments in host memory and update
            there. Frees 12 bytes for each parameter in a GPU's shard, but takes more time. Needs
            bfloat16.
    """

    normalisation: Normalisation = "token"
    lr: float = 1e-6
    min_lr: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip_grad: float = 1.0
    cpu_offload: bool = False


@dataclass(frozen=True)
class ScheduleConfig:
    """How long a run is, counted in rows.

    Args:
        global_batch_rows: rows of one optimizer step over all ranks.
        epochs: passes over the training rows, if ``steps`` is 0.
        steps: optimizer steps of the run; 0 derives them from ``epochs``.
        warmup_fraction: share of the run's rows with a rising learning rate (paper: 3 %).
        exit_after_steps: save and stop after this many steps of this start; 0 runs to the end.
    """

    global_batch_rows: int = 64
    epochs: int = 1
    steps: int = 0
    warmup_fraction: float = 0.03
    exit_after_steps: int = 0

    def total_steps(self, rows: int) -> int:
        """Return the optimizer steps of the whole run over a dataset of ``rows`` rows."""
        return self.steps or max(self.epochs * rows // self.global_batch_rows, 1)


@dataclass(frozen=True)
class CheckpointConfig:
    """What is saved, and where a run starts.

    Args:
        dir: folder of the checkpoints; a run resumes from the newest complete one in it.
        init_from: checkpoint whose weights a new run starts from; empty draws random weights.
        interval_steps: save at this interval, and at the end.
        keep_last: complete checkpoints to keep; older ones are removed. 0 keeps all.
        keep_every_steps: also keep the checkpoints of multiples of this step; 0 for none.
        asynchronous: write checkpoints in helper processes while the training continues.
        allow_changed_data: resume even if the data or the batch size has changed.
        allow_changed_model: resume even if the model computes something else: rotary frequencies,
            precision, normalisation of the loss.
    """

    dir: str = ""
    init_from: str = ""
    interval_steps: int = 200
    keep_last: int = 2
    keep_every_steps: int = 0
    asynchronous: bool = True
    allow_changed_data: bool = False
    allow_changed_model: bool = False


@dataclass(frozen=True)
class LoggingConfig:
    """What is reported, and when.

    Args:
        interval_steps: print a step line, and compare the ranks' speed and memory, at this
            interval; ``metrics.jsonl`` has every step.
        validation_interval_steps: validate at this interval, at step 0 and at the end.
        validation_rows: rows of one validation; 0 takes all.
        probe: probes that in2 probe build wrote, JSON lines; empty for none. The model generates
            answers to them during the run: accuracy by evidence position.
        probe_interval_steps: answer them at this interval, at step 0 and at the end.
        probe_new_tokens: longest generated answer in tokens.
        tensorboard: write TensorBoard events to the checkpoint folder.
        wandb_project: also log to this Weights & Biases project; empty for none. Needs the package
            wandb.
        straggler_threshold: warn of ranks whose own work takes longer than the mean of all ranks
            by more than this share.
        profile_steps: trace this step, or these steps (``10-12``); empty for none.
        profile_ranks: trace this rank, or these ranks (``0-7``).
    """

    interval_steps: int = 10
    validation_interval_steps: int = 100
    validation_rows: int = 0
    probe: str = ""
    probe_interval_steps: int = 100
    probe_new_tokens: int = 32
    tensorboard: bool = True
    wandb_project: str = ""
    straggler_threshold: float = 0.1
    profile_steps: int | str = ""
    profile_ranks: int | str = 0


@dataclass(frozen=True)
class RuntimeConfig:
    """How a run computes.

    Args:
        dtype: float32, or bfloat16 with float32 master weights and gradient reduction.
        backend: implementation of the layers: auto | torch | transformer_engine. auto takes
            transformer_engine where it can run.
        logits: answers (the LM head and the last layer run at answer positions only; with fp8 the
            head alone) | all (at every position, for comparison).
        seed: of random initial weights and of the order of rows.
        init_std: standard deviation of randomly initialised matrices.
        fp8: matrix products of the layers in FP8, with the transformer_engine backend: hybrid
            (e4m3 forward, e5m2 backward), e4m3 (both), or empty for none. Weights stay in
            ``dtype``.
        recompute: activations that are recomputed in the backward pass: none, selective (norms and
            the feed-forward layers' products, which cost little; with transformer_engine, those of
            feed-forward layers) or full (all; about a third more time, least memory).
        stop_after_skipped: end the run after this many steps in a row whose loss or gradient was
            not finite. Each such step is skipped.
        rehearsal: run the largest possible row before the first step, so that a lack of memory
            shows at once: always, never or auto (on a GPU).
        hang_timeout: seconds without any progress (a micro-batch, a part of a checkpoint) after
            which the run ends with exit code 69 and names the ranks that did not arrive; four
            times as long until the first micro-batch. 0 for never.
    """

    dtype: Dtype = "bfloat16"
    backend: Backend = "auto"
    logits: Logits = "answers"
    seed: int = 1234
    init_std: float = 0.02
    fp8: Fp8 = ""
    recompute: Recompute = "none"
    stop_after_skipped: int = 3
    rehearsal: RehearsalMode = "auto"
    hang_timeout: float = 300.0


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    MOVED: ClassVar[dict[str, str]] = {
        f"model.{name}": f"runtime.{name}" for name in MOVED_TO_RUNTIME
    }
    """New names of fields that version 1 had elsewhere, for error messages."""
    inherited = staticmethod(inherited_defaults)
    """Defaults that follow from the given fields; parsers ask for them."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)

    def validate(self, world_size: int) -> None:
        """Check everything that can be checked without a file.

        Raises:
            InputError: naming the field, its value and the remedy.
        """
        require_choices(self)
        self.parallel.validate(world_size)
        architecture_of(self.model).validate(self.model, self.parallel)
        self._validate_sequence()
        self._validate_batch(world_size)
        self._validate_precision()
        if self.optimizer.lr <= 0 or not 0 <= self.optimizer.min_lr <= self.optimizer.lr:
            raise InputError(
                f"optimizer.lr={self.optimizer.lr} and min_lr={self.optimizer.min_lr}: need "
                "0 <= min_lr <= lr and lr > 0"
            )
        if not 0 <= self.schedule.warmup_fraction < 1:
            raise InputError(
                f"schedule.warmup_fraction={self.schedule.warmup_fraction}: from 0 to below 1"
            )
        self._validate_logging(world_size)
        for (section, name), (is_possible, words) in _RANGES.items():
            number: float = getattr(getattr(self, section), name)
            if not (math.isfinite(number) and is_possible(number)):
                raise InputError(f"{section}.{name}={number}: must be {words}")
        for section, names in _COUNTS.items():
            for name, low in names.items():
                count: int = getattr(getattr(self, section), name)
                if count < low:
                    raise InputError(f"{section}.{name}={count}: must be {low} or more")

    def _validate_sequence(self) -> None:
        length, multiple = self.data.seq_length, self.parallel.sample_multiple
        if length < 1 or length % multiple:
            raise InputError(
                f"data.seq_length={length} is not divisible by {multiple}, which parallel.tensor="
                f"{self.parallel.tensor} sequence={self.parallel.sequence} context="
                f"{self.parallel.context} need: change the row length or the parallel sizes"
            )
        if length > self.model.max_position_embeddings:
            raise InputError(
                f"data.seq_length={length} exceeds model.max_position_embeddings="
                f"{self.model.max_position_embeddings}: use shorter rows or raise it"
            )

    def _validate_precision(self) -> None:
        if self.optimizer.cpu_offload and self.runtime.dtype != "bfloat16":
            raise InputError(
                f"optimizer.cpu_offload=true needs runtime.dtype=bfloat16, not "
                f"{self.runtime.dtype}: in float32 Megatron-Core cannot load back what it offloaded"
            )
        if not self.runtime.fp8:
            return
        if self.runtime.dtype != "bfloat16":
            raise InputError(
                f"runtime.fp8={self.runtime.fp8} needs runtime.dtype=bfloat16, not "
                f"{self.runtime.dtype}"
            )
        if self.runtime.backend == "torch":
            raise InputError(
                f"runtime.fp8={self.runtime.fp8} needs runtime.backend=transformer_engine; the "
                "torch backend has no FP8: change one of them"
            )
        parallel, tensor = self.parallel, self.parallel.tensor
        shared = parallel.context * (tensor if parallel.sequence else 1)
        for name, size, ranks in (
            ("data.seq_length", self.data.seq_length, shared),
            ("model.hidden_size", self.model.hidden_size, 1),
            ("model.ffn_hidden_size", self.model.ffn_hidden_size, tensor),
        ):
            if size // ranks % FP8_MULTIPLE:
                raise InputError(
                    f"runtime.fp8={self.runtime.fp8}: {name}={size} over {ranks} ranks is no "
                    f"multiple of {FP8_MULTIPLE}, which FP8 matrix products need: change it, the "
                    "parallel sizes, or leave runtime.fp8 empty"
                )

    def _validate_batch(self, world_size: int) -> None:
        rows, ranks = self.schedule.global_batch_rows, self.parallel.data_ranks(world_size)
        if rows < 1 or rows % ranks:
            raise InputError(
                f"schedule.global_batch_rows={rows} is not divisible by the {ranks} data-parallel "
                f"ranks of world size {world_size}: use a multiple of {ranks}"
            )

    def _validate_logging(self, world_size: int) -> None:
        logging = self.logging
        if logging.straggler_threshold <= 0:
            raise InputError(
                f"logging.straggler_threshold={logging.straggler_threshold}: must be above 0"
            )
        if logging.profile_steps == "":
            return
        steps = parse_range("logging.profile_steps", logging.profile_steps)
        if steps.start < 1:
            raise InputError(f"logging.profile_steps={logging.profile_steps}: steps begin at 1")
        ranks = parse_range("logging.profile_ranks", logging.profile_ranks)
        if ranks[-1] >= world_size:
            raise InputError(
                f"logging.profile_ranks={logging.profile_ranks}: world size {world_size} has ranks "
                f"0 to {world_size - 1}"
            )


def parse_range(field: str, value: int | str) -> range:
    """Read a number, or the first and last of a range: ``10`` or ``10-12``.

    Raises:
        InputError: naming the field and its value.
    """
    matched = re.fullmatch(r"(\d+)(?:-(\d+))?", str(value))
    if not matched:
        raise InputError(f"{field}={value}: write a number, or first and last, such as 10-12")
    first, last = int(matched[1]), int(matched[2] or matched[1])
    if first > last:
        raise InputError(f"{field}={value}: the first is above the last: write {last}-{first}")
    return range(first, last + 1)


_RANGES: dict[tuple[str, str], tuple[Callable[[float], bool], str]] = {
    ("model", "rope_theta"): (lambda value: value > 0, "above 0"),
    ("model", "norm_epsilon"): (lambda value: value > 0, "above 0"),
    ("optimizer", "lr"): (lambda value: value > 0, "above 0"),
    ("optimizer", "beta1"): (lambda value: 0 <= value < 1, "from 0 to below 1"),
    ("optimizer", "beta2"): (lambda value: 0 <= value < 1, "from 0 to below 1"),
    ("optimizer", "eps"): (lambda value: value > 0, "above 0"),
    ("optimizer", "weight_decay"): (lambda value: value >= 0, "0 or more"),
    ("optimizer", "clip_grad"): (lambda value: value >= 0, "0 (no clipping) or more"),
    ("runtime", "init_std"): (lambda value: value > 0, "above 0"),
    ("runtime", "hang_timeout"): (lambda value: value >= 0, "0 (never) or more"),
}
_COUNTS = {
    "schedule": {"epochs": 1, "steps": 0, "exit_after_steps": 0},
    "checkpoint": {"interval_steps": 1, "keep_last": 0, "keep_every_steps": 0},
    "logging": {
        "interval_steps": 1,
        "validation_interval_steps": 1,
        "validation_rows": 0,
        "probe_interval_steps": 1,
        "probe_new_tokens": 1,
    },
    "runtime": {"stop_after_skipped": 1},
}
