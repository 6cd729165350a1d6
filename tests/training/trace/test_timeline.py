"""The roofline and its overlap, on programs whose times can be computed by hand."""

from dataclasses import replace

import pytest

from megatron_in2.training.arithmetic.gpu_types import Gpu
from megatron_in2.training.trace.events import (
    Collective,
    Event,
    MicroBatchEnd,
    Operation,
    Phase,
    Wait,
)
from megatron_in2.training.trace.timeline import (
    COLLECTIVE_SECONDS,
    KERNEL_SECONDS,
    LINK_SHARE,
    MEMORY_SHARE,
    Timeline,
    collective_seconds,
    operation_seconds,
    play,
    step_seconds,
)

GPU = Gpu(
    bf16_tflops=100,
    memory_gib=80,
    memory_gb_s=1000,
    link_gb_s=200,
    network_gb_s=20,
    attained=0.5,
    matrix_attained=0.8,
    attention_attained={"flash_2": 0.25, "cudnn": 0.5},
    attention_kernel="cudnn",
)
NODE = tuple(range(4))
SECOND = 8e13  # FLOPs of matrix products that take one


def _operation(
    flops: float = 0,
    moved: int = 0,
    name: str = "mm",
    phase: Phase = "forward",
    again: bool = False,
) -> Operation:
    return Operation(name, "layer", phase, flops, moved, again)


def _gather(seconds: float = 1.0, ranks: tuple[int, ...] = NODE, name: str = "all_gather"):
    sent = (seconds - COLLECTIVE_SECONDS) * 200e9 * LINK_SHARE
    return Collective(name, "tensor", ranks, round(sent * 4 / 3), "forward", "layer")


@pytest.mark.parametrize(
    ("operation", "seconds"),
    [
        (_operation(SECOND), 1.0),
        (_operation(SECOND, name="scaled_dot_product_attention"), 1.6),
        (_operation(SECOND, name="fused_attention_backward"), 1.6),
        (_operation(SECOND, name="_scaled_dot_product_flash_attention"), 3.2),
        (_operation(SECOND, name="_varlen_attn"), 3.2),
        (_operation(SECOND, round(2e12 * MEMORY_SHARE)), 2.0),
        (_operation(moved=8, name="add"), KERNEL_SECONDS),
        (_operation(moved=10**12, name="empty_like"), 0.0),
    ],
)
def test_an_operation_takes_what_limits_it(operation: Operation, seconds: float) -> None:
    assert operation_seconds(operation, GPU) == pytest.approx(seconds)


def test_flash_attention_3_takes_what_flash_attention_2_would() -> None:
    gpu = replace(GPU, attention_attained={"flash_2": 0.25, "flash_3": 0.8})
    gpu = replace(gpu, attention_kernel="flash_3")
    for name in ("scaled_dot_product_attention", "_varlen_attn"):
        assert operation_seconds(_operation(SECOND, name=name), gpu) == pytest.approx(1.0)


def test_groups_share_what_leaves_their_node() -> None:
    def seconds(ranks: tuple[int, ...], name: str = "all_gather") -> tuple[str, float]:
        link, found = collective_seconds(
            Collective(name, "data", ranks, 16 * 10**9, "update", ""), GPU
        )
        return link, found - COLLECTIVE_SECONDS

    assert seconds((0, 1)) == ("node", pytest.approx(8 / (200 * LINK_SHARE)))
    assert seconds((0, 8)) == ("network", pytest.approx(8 / (20 * LINK_SHARE)))
    assert seconds((0, 4, 8, 12)) == ("network", pytest.approx(12 / (40 * LINK_SHARE)))
    assert seconds(tuple(range(16)))[1] == pytest.approx(15 / (160 * LINK_SHARE))
    assert seconds((0, 1), "all_reduce")[1] == pytest.approx(16 / (200 * LINK_SHARE))
    assert seconds((0, 4, 8, 12), "send")[1] == pytest.approx(16 / (20 * LINK_SHARE))


def _total(*events: Event) -> float:
    return play(events, GPU).total


def test_a_collective_runs_beside_operations_until_it_is_waited_for() -> None:
    work = _operation(SECOND)
    assert _total(_gather(), Wait(0), work) == pytest.approx(2)
    assert _total(_gather(), work, Wait(0)) == pytest.approx(1)
    assert _total(work, _gather(), work, Wait(1), work) == pytest.approx(3)
    assert _total(_gather(3), work, Wait(0), work) == pytest.approx(4)
    assert _total(work, _gather(3)) == pytest.approx(4)  # nothing waits for it, but it must end


def test_collectives_of_a_link_follow_each_other() -> None:
    across = _gather(ranks=(0, 8, 16, 24))
    slow = collective_seconds(across, GPU)[1]
    both = play([_gather(), _gather(), Wait(0), Wait(1)], GPU)
    assert both.total == both.waited == both.links["node"] == pytest.approx(2)
    apart = play([_gather(), across, Wait(0), Wait(1)], GPU)
    assert apart.total == pytest.approx(slow)
    assert apart.links == {"node": pytest.approx(1), "network": pytest.approx(slow)}
    assert _total(_gather(ranks=(3,)), _gather(name="barrier"), Wait(0)) == 0


def test_a_message_is_received_while_another_is_sent() -> None:
    sent, received = _gather(name="send"), _gather(name="receive")
    seconds = collective_seconds(sent, GPU)[1]
    both = play([sent, received, Wait(0), Wait(1)], GPU)
    assert both.total == pytest.approx(seconds)
    assert both.links["node"] == pytest.approx(2 * seconds)
    assert _total(sent, sent, Wait(1)) == pytest.approx(2 * seconds)


def test_phases_are_told_apart() -> None:
    again, update = _operation(SECOND, again=True), _operation(2 * SECOND, phase="update")
    line = play([_operation(SECOND), MicroBatchEnd(), again, update], GPU)
    assert (line.ends, line.before_update) == ((pytest.approx(1),), pytest.approx(2))
    assert (line.recomputed, line.compute, line.waited) == pytest.approx((1, 4, 0))


def _line(total: float, *ends: float) -> Timeline:
    return Timeline(total, 0.0, {}, ends, before_update=total - 1, total=total)


def test_further_micro_batches_and_an_idle_pipeline_are_added() -> None:
    alone = _line(11, 2, 6)  # the second ends 4 after the first
    assert step_seconds([alone], 2, pipeline=1) == 11
    assert step_seconds([alone], 5, pipeline=1) == 11 + 3 * 4
    # Two stages, three micro-batches traced of eight: the slower stage decides, one idles.
    first, last = _line(20, 1, 2, 7), _line(15, 1, 5, 9)
    assert step_seconds([first, last], 8, pipeline=2) == 20 + 5 * 5 + 5
    # A pipeline that is never full: a micro-batch takes its share of all but the update.
    assert step_seconds([_line(9, 1, 2)], 2, pipeline=2) == 9 + 8 / 2
