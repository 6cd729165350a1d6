"""SwiGLU against torch's own operations, and the layer that recomputes it against the usual one."""

import pytest
import torch
import torch.nn.functional as F

from megatron_in2.model.build import build_model
from megatron_in2.model.initialisation import initialise_weights
from megatron_in2.model.packed_row import packed_row
from megatron_in2.model.swiglu import swiglu
from megatron_in2.parallel.config import ParallelConfig
from megatron_in2.parallel.world import World
from tests.model.conftest import TINY
from tests.model.mapped import assert_close_gradients


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_torchs_arithmetic_and_keeps_its_input_alone(
    generator: torch.Generator, dtype: torch.dtype
) -> None:
    inputs = [torch.randn(40, 1, 24, generator=generator).to(dtype) for _ in range(2)]
    gate_up = inputs[0].requires_grad_()
    expected_input = inputs[0].detach().clone().requires_grad_()
    weight = inputs[1][..., :12]
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        product = swiglu(gate_up)
    assert [each.data_ptr() for each in kept] == [gate_up.data_ptr()]
    gate, up = expected_input.chunk(2, dim=-1)
    expected = F.silu(gate) * up
    assert torch.equal(product, expected)
    product.backward(weight)
    expected.backward(weight)
    assert gate_up.grad is not None
    assert expected_input.grad is not None
    assert gate_up.grad.abs().max() > 0
    assert torch.equal(gate_up.grad, expected_input.grad)


def _gradients(
    world: World, recompute: str, tokens: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, dict[str, torch.Tensor], int]:
    """Return losses, gradients, and the bytes kept for the backward pass."""
    model = build_model(TINY, ParallelConfig(), world, dtype, recompute)
    initialise_weights(model, TINY, seed=3, init_std=0.2)
    row = packed_row([tokens.numel()], world.device)
    boxes = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        boxes.append(tensor)
        return tensor

    positions = torch.arange(tokens.numel()).unsqueeze(0)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        losses = model(
            tokens,
            positions,
            None,
            labels=tokens.roll(-1, 1),
            loss_mask=torch.ones_like(tokens, dtype=torch.uint8),
            packed_seq_params=row,
        )
    storages = {each.untyped_storage()._cdata: each.untyped_storage().nbytes() for each in boxes}
    boxes.clear()
    losses.sum().backward()
    return (
        losses,
        {name: each.grad for name, each in model.named_parameters()},
        sum(storages.values()),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_selective_recomputation_changes_memory_alone(
    world: World, generator: torch.Generator, dtype: torch.dtype
) -> None:
    tokens = torch.randint(0, TINY.vocab_size, (1, 96), generator=generator)
    losses, gradients, kept = _gradients(world, "none", tokens, dtype)
    lean_losses, lean_gradients, lean_kept = _gradients(world, "selective", tokens, dtype)
    assert torch.equal(losses, lean_losses)
    for name, gradient in gradients.items():
        # The residual's gradients are added in another order.
        assert_close_gradients(name, lean_gradients[name], gradient, 16 * torch.finfo(dtype).eps)
    # The first of two layers, the last one being the head's: its norms and its product.
    elements = 96 * (2 * TINY.hidden_size + TINY.ffn_hidden_size)
    assert kept - lean_kept >= elements * dtype.itemsize
