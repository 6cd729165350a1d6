"""Builds probes: contexts of many units, and for chosen positions the question about that unit."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from megatron_in2.choices import as_option, require_choices
from megatron_in2.errors import InputError
from megatron_in2.evaluation.probing.associations import ASSOCIATIONS, NAMES, lexical_overlap
from megatron_in2.evaluation.probing.tasks import ProbeTask, TaskName, Unit, find_task, read_units
from megatron_in2.files import atomic_file
from megatron_in2.progress import progress_bar
from megatron_in2.templates.base import Template, Turn
from megatron_in2.templates.ids import count_tokens
from megatron_in2.tokenizers.base import Tokenizer


@dataclass(frozen=True)
class BuildConfig:
    """What to build.

    Args:
        task: what is retrieved from the context.
        context_tokens: longest probe, in tokens of the whole prompt: the model's window, less its
            answer.
        fills: shares of context_tokens; each makes a file of shorter probes. A model's bias changes
            with them (arXiv 2508.07479).
        units: units in each context (published: 800 sentences or functions, 750 entities); 0
            takes as many as fit.
        positions: positions asked for in each set, evenly spread; 0 asks for every one.
        sets: contexts.
        seed: the same seed and pieces give the same probes.
    """

    task: TaskName = "document"
    context_tokens: int = 32_000
    fills: list[float] = field(default_factory=list)
    units: int = 0
    positions: int = 0
    sets: int = 4
    seed: int = 1234

    def __post_init__(self) -> None:
        require_choices(self, as_option)
        for name, least in (("context_tokens", 1), ("units", 0), ("positions", 0), ("sets", 1)):
            if getattr(self, name) < least:
                option = f"--{name.replace('_', '-')}"
                raise InputError(f"{option} {getattr(self, name)}: give {least} or more")
        for fill in self.fills:
            if not 0 < fill <= 1:
                raise InputError(f"--fills {fill}: give shares above 0, at most 1")
        if len(set(self.fills)) < len(self.fills):
            raise InputError("--fills names a share twice")
        if self.fills and self.units:
            raise InputError("--fills fills contexts by tokens: leave --units out")


@dataclass(frozen=True)
class _Asked:
    """What is asked at one position: the context there, the question, and the true answer."""

    context: str
    question: str
    answer: str


_Asker = Callable[[int], _Asked | None]  # position -> what is asked; None where it is ambiguous


def build_probes(
    pieces: Path,
    output: Path,
    config: BuildConfig,
    tokenizer: Tokenizer,
    template: Template,
) -> tuple[int, int]:
    """Write ``output/TASK.jsonl``, one probe a line in the published form; or a file for each fill.

    A line has ``prompt``, ``completion``, ``position_id``, ``set_id``, ``units`` (in its context),
    ``task``, ``context_tokens`` (as asked for), ``template`` (its name) and ``user``: the [start,
    end) characters of the prompt that are the user's message, which is what a chat API is sent; and
    ``fill``, where fills are asked for. A position whose piece occurs twice in its context is
    skipped. Contexts of smaller fills are the starts of those of larger ones.

    Args:
        pieces: folder with the piece files.
        output: folder for the probes.
        config: what to build.
        tokenizer: counts the tokens.
        template: writes the prompts: that of the model that is to answer.

    Returns:
        (probes written, positions skipped).

    Raises:
        InputError: too few pieces, or a context too short for the units or positions asked for.
    """
    units = read_units(pieces, find_task(config.task))
    if not config.fills:
        path = output / f"{config.task}.jsonl"
        return _write_probes(units, path, config, tokenizer, template)
    counts = [
        _write_probes(
            units,
            output / f"{fill_name(config.task, fill)}.jsonl",
            replace(config, context_tokens=int(fill * config.context_tokens)),
            tokenizer,
            template,
            {"fill": fill},
        )
        for fill in config.fills
    ]
    return sum(written for written, _ in counts), sum(skipped for _, skipped in counts)


def fill_name(task: str, fill: float) -> str:
    """Return the name of a task's probes that fill a share of the window; the whole adds none."""
    return task if fill == 1 else f"{task}-fill-{100 * fill:g}"


def _write_probes(
    units: list[Unit],
    path: Path,
    config: BuildConfig,
    tokenizer: Tokenizer,
    template: Template,
    described: dict[str, float] | None = None,
) -> tuple[int, int]:
    """Write one file of probes; ``described`` is added to each line."""
    task = find_task(config.task)
    written = skipped = 0
    with atomic_file(path) as stream:
        for set_id in progress_bar(range(config.sets), desc="build", unit=" sets"):
            chance = random.Random(f"{config.seed}/{task.name}/{set_id}")
            sampled = chance.sample(units, len(units))
            chosen = _fill(sampled, task, config, tokenizer, template)
            ask = _asker(chosen, task, chance)
            for position in _positions(len(chosen), config.positions):
                asked = ask(position)
                if asked is None:
                    skipped += 1
                    continue
                message = template.wording.message(asked.question, asked.context)
                prompt = template.prompt_text(message)
                probe = {
                    "prompt": prompt,
                    "completion": asked.answer,
                    "position_id": position,
                    "set_id": set_id,
                    "units": len(chosen),
                    "task": task.name,
                    "context_tokens": config.context_tokens,
                    "template": template.name,
                    "user": template.user_span(prompt),
                    **(described or {}),
                }
                stream.write(json.dumps(probe, ensure_ascii=False) + "\n")
                written += 1
    return written, skipped


def _fill(
    units: list[Unit],
    task: ProbeTask,
    config: BuildConfig,
    tokenizer: Tokenizer,
    template: Template,
) -> list[Unit]:
    """Take units in order while the longest question about them still fits."""
    chosen: list[Unit] = []
    *prompt, _, _ = template.parts(None, [Turn(template.wording.message("", ""), "answer")])
    tokens = count_tokens(prompt, tokenizer)
    if task.name == "association":
        tokens += _longest_association(tokenizer)
    longest = 0
    for unit in units[: config.units or len(units)]:
        # Each part counted apart, separators included, is never less than the joined whole.
        tokens += len(tokenizer.encode(task.separator + unit.text))
        longest = max(longest, len(tokenizer.encode(task.question.format(piece=unit.piece))))
        if tokens + longest > config.context_tokens:
            break
        chosen.append(unit)
    wanted = max(config.units, config.positions, 1)
    if len(units) < wanted or (not config.units and len(chosen) == len(units)):
        raise InputError(
            f"{len(units)} {task.name} pieces do not fill {config.units or config.context_tokens} "
            f"{'units' if config.units else 'tokens'}: give more pieces or lower "
            f"{'--units' if config.units else '--context-tokens'}"
        )
    if len(chosen) < wanted:
        asked = "--units" if config.units >= config.positions else "--positions"
        raise InputError(
            f"--context-tokens {config.context_tokens} holds {len(chosen)} {task.name} units, "
            f"fewer than {asked} {wanted}"
        )
    return chosen


def _longest_association(tokenizer: Tokenizer) -> int:
    """Return the tokens that the longest statement, name and question take together."""
    texts = (
        [pair.statement for pair in ASSOCIATIONS],
        [pair.question for pair in ASSOCIATIONS],
        list(NAMES),
    )
    return sum(max(len(tokenizer.encode(text)) for text in kind) for kind in texts)


def _positions(units: int, wanted: int) -> list[int]:
    if wanted in (0, units):
        return list(range(units))
    if wanted == 1:
        return [units // 2]
    return [round(index * (units - 1) / (wanted - 1)) for index in range(wanted)]


def _asker(units: list[Unit], task: ProbeTask, chance: random.Random) -> _Asker:
    if task.name == "association":
        return _association_asker(units, task, chance)
    context = task.separator.join(unit.text for unit in units)

    def ask(position: int) -> _Asked | None:
        unit = units[position]
        if context.count(unit.piece) > 1:
            return None
        return _Asked(context, task.question.format(piece=unit.piece), unit.answer)

    return ask


def _association_asker(units: list[Unit], task: ProbeTask, chance: random.Random) -> _Asker:
    """Put a statement in the place of the unit asked for.

    Its name, and what the question asks by, occur nowhere else in the context.
    """
    texts = [unit.text for unit in units]
    prose = task.separator.join(texts)
    lowered = prose.lower()
    names = [name for name in NAMES if name not in prose]
    pairs = [pair for pair in ASSOCIATIONS if pair.target.lower() not in lowered]
    usable = [
        (pair, name)
        for pair in pairs
        for name in names
        if not lexical_overlap(pair.question, pair.statement.format(name=name))
    ]
    if not usable:
        raise InputError("every association's name or target occurs in the pieces: give others")

    def ask(position: int) -> _Asked:
        pair, name = chance.choice(usable)
        statement = pair.statement.format(name=name)
        context = task.separator.join([*texts[:position], statement, *texts[position + 1 :]])
        return _Asked(context, pair.question, name)

    return ask
