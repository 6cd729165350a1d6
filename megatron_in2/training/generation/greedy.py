"""Greedy answers by forward passes of the training schedule: TP, SP, PP, CP and DP as they are."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from megatron_in2.data.packed.dataset import Row
from megatron_in2.data.packed.manifest import SAMPLE_RECORD
from megatron_in2.training.generation.drafts import AnswerDraft
from megatron_in2.training.state import TrainingState
from megatron_in2.training.step.batch import Batch, make_batch
from megatron_in2.training.step.loss import (
    ForwardStep,
    LossResult,
    ReportFunction,
    global_sums,
    run_model,
)

_FILLING = -1  # in the place of a draft's number


@torch.no_grad()
def answer_greedily(state: TrainingState, drafts: list[AnswerDraft], pad_id: int) -> int:
    """Find the model's answers to all drafts; every rank must call it, with the same drafts.

    Weights, gradients, the optimizer and random generators stay as they are.

    Args:
        state: the run.
        drafts: advanced until each is done; all of one answer length.
        pad_id: fills rows.

    Returns:
        Forward passes over (the rest of) the drafts.
    """
    state.model.eval()
    passes = 0
    while open_drafts := [number for number, draft in enumerate(drafts) if not draft.is_done]:
        choices = _choices(state, drafts, open_drafts, pad_id)
        for number in open_drafts:
            drafts[number].check(choices[number].tolist())
        passes += 1
    state.model.train()
    return passes


def _choices(
    state: TrainingState, drafts: list[AnswerDraft], numbers: list[int], pad_id: int
) -> torch.Tensor:
    """Return the model's choice at each place of the answers: int64 [drafts, answer length]."""
    world, config = state.world, state.config
    rows = draft_rows(
        drafts, numbers, config.data.seq_length, config.parallel.sample_multiple, pad_id
    )
    # Each rank runs as many rows: ranks that leave a collective out would wait for one another.
    own = rows[world.data_rank :: world.data_size]
    count = -(-len(rows) // world.data_size)
    idle = draft_rows(drafts, [], config.data.seq_length, 1, pad_id) * (count - len(own))
    shape = len(drafts), len(drafts[0].guess)
    starts = torch.tensor([len(draft.prompt) for draft in drafts], device=world.device)

    def report(batch: Batch, chosen: torch.Tensor) -> torch.Tensor:
        table = torch.zeros(shape, dtype=torch.float64, device=world.device)
        asked = batch.loss_mask.bool()
        owners = torch.from_numpy(batch.row.records["row"].copy()).to(world.device)
        owners = owners[batch.sequences[asked]]
        # A row without a draft has one choice that belongs to nothing.
        table[owners, batch.positions[asked] + 1 - starts[owners]] = chosen[: len(owners)].double()
        return table.flatten()

    def batches() -> Iterator[Batch]:
        for row in [*own, *idle]:
            yield make_batch(row, world)

    reports = state.run_schedule(_choice_step(report), batches(), count, forward_only=True)
    # Each choice is made on one data-parallel and context-parallel rank; the others add zero.
    return global_sums(reports, shape[0] * shape[1], world).view(shape).long()


def _choice_step(report: ReportFunction) -> ForwardStep:
    """Return the function that the schedule calls for each row; the model chooses, without loss."""

    def forward_step(batches: Iterator[Batch], model: torch.nn.Module) -> object:
        batch = next(batches)
        batch.packing.chooses = True
        output = run_model(model, batch)

        def without_loss(chosen: torch.Tensor) -> LossResult:
            nothing = torch.zeros((), device=chosen.device)
            return nothing, nothing.to(torch.int32), report(batch, chosen)

        return output, without_loss

    return forward_step  # type: ignore[return-value]


def draft_rows(
    drafts: list[AnswerDraft], numbers: Sequence[int], seq_length: int, multiple: int, pad_id: int
) -> list[Row]:
    """Pack drafts into rows, each into the first row with enough space.

    Args:
        drafts: all of them.
        numbers: those to pack; with none there is one row of filling.
        seq_length: tokens of a row, a multiple of ``multiple``.
        multiple: of each sequence's length.
        pad_id: fills sequences and rows.

    Returns:
        Rows whose records have each draft's number in ``row``; -1 is filling.
    """
    rows: list[list[int]] = [[]]
    free = [seq_length]
    for number in numbers:
        needed = padded_tokens(drafts[number], multiple)
        place = next((place for place, left in enumerate(free) if left >= needed), None)
        if place is None:
            place = len(rows)
            rows.append([])
            free.append(seq_length)
        rows[place].append(number)
        free[place] -= needed
    return [_row(drafts, row, seq_length, multiple, pad_id) for row in rows]


def padded_tokens(draft: AnswerDraft, multiple: int) -> int:
    """Return the tokens that a draft takes of a row."""
    return -(-(len(draft.prompt) + len(draft.guess)) // multiple) * multiple


def _row(
    drafts: list[AnswerDraft], numbers: list[int], seq_length: int, multiple: int, pad_id: int
) -> Row:
    tokens = np.full(seq_length, pad_id, np.int64)
    mask = np.zeros(seq_length, np.uint8)
    lengths, owners, start = [], [], 0
    for number in numbers:
        draft = drafts[number]
        answer = start + len(draft.prompt)
        tokens[start : answer + len(draft.guess)] = draft.tokens
        mask[answer : answer + len(draft.guess)] = 1
        lengths.append(padded_tokens(draft, multiple))
        owners.append(number)
        start += lengths[-1]
    if start < seq_length:
        lengths.append(seq_length - start)
        owners.append(_FILLING)
    records = np.zeros(len(lengths), SAMPLE_RECORD)
    records["row"] = owners
    return Row(0, tokens, mask, lengths, records)
