"""A model's tensors by the rows of its family's table."""

from collections.abc import Iterator

import torch

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.architectures.registry import tensor_table
from megatron_in2.architectures.tensors import TensorMapping
from megatron_in2.model.gpt import AnswerGPTModel


def mapped_parameters(
    model: AnswerGPTModel, config: ModelConfig
) -> Iterator[tuple[torch.nn.Parameter, TensorMapping]]:
    """Pair each row of the table with the parameter of a model on the torch backend, one rank."""
    parameters = dict(model.named_parameters())
    for mapping in tensor_table(config):
        name = mapping.alias or mapping.key
        if mapping.layer is not None:
            name = name.replace("decoder.layers.", f"decoder.layers.{mapping.layer}.")
        yield parameters.pop(name), mapping
    assert not parameters, parameters.keys()


@torch.no_grad()
def copy_from_transformers(
    model: AnswerGPTModel, config: ModelConfig, theirs: torch.nn.Module
) -> None:
    """Give a model the weights of transformers' model."""
    for parameter, mapping in mapped_parameters(model, config):
        parts = [theirs.get_parameter(name) for name in mapping.names]
        parameter.copy_(mapping.merge(parts))


def assert_close_gradients(
    name: str, ours: torch.Tensor, theirs: torch.Tensor, tolerance: float
) -> None:
    """Compare relative to the largest element of a tensor, which may not be zero."""
    largest = theirs.abs().max()
    assert largest > 0, f"{name}: gradient is all zero"
    assert (ours - theirs).abs().max() <= tolerance * largest, name
