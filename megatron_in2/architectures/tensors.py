"""The one table of names: which Megatron-Core tensor is made of which Hugging Face tensors."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.architectures.layouts import merge_gate_up, merge_qkv, split_gate_up, split_qkv

Tensors = list[torch.Tensor]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class TensorMapping:
    """One Megatron-Core tensor and the Hugging Face tensors it is made of.

    ``key`` is its name in a distributed checkpoint, where the tensors of all layers are stacked
    on a leading axis; ``layer`` is its place there, None for a tensor outside the layers.
    ``shape`` is its own, vocabulary unpadded; ``shapes`` are those of ``names``, in order.

    Keys are those of Transformer Engine's spec, whose norms are fused with the matrix behind
    them; Megatron-Core's torch spec, whose norms stand alone, is saved under them too. ``alias``
    is the torch spec's own name, under which other tools may have saved; empty where it is equal.
    """

    key: str
    layer: int | None
    shape: Shape
    names: tuple[str, ...]
    shapes: tuple[Shape, ...]
    merge: Callable[[Tensors], torch.Tensor]
    split: Callable[[torch.Tensor], Tensors]
    alias: str = ""


def tensor_table(config: ModelConfig) -> list[TensorMapping]:
    """Return the whole table for an architecture, in the order of the model."""
    hidden, vocabulary = config.hidden_size, config.vocab_size
    table = [
        _same("embedding.word_embeddings.weight", "model.embed_tokens.weight", (vocabulary, hidden))
    ]
    for layer in range(config.num_layers):
        table.extend(_layer_tensors(config, layer))
    table.append(_same("decoder.final_layernorm.weight", "model.norm.weight", (hidden,)))
    if not config.tie_word_embeddings:
        table.append(_same("output_layer.weight", "lm_head.weight", (vocabulary, hidden)))
    return table


def _layer_tensors(config: ModelConfig, layer: int) -> list[TensorMapping]:
    hidden, feed_forward = config.hidden_size, config.ffn_hidden_size
    heads, groups = config.num_attention_heads, config.num_query_groups
    queries, keys = heads * config.head_dim, groups * config.head_dim
    here, there = "decoder.layers", f"model.layers.{layer}"

    def same(key: str, name: str, shape: Shape, alias: str = "") -> TensorMapping:
        alias = f"{here}.{alias}" if alias else ""
        return _same(f"{here}.{key}", f"{there}.{name}.weight", shape, layer, alias)

    return [
        same(
            "self_attention.linear_qkv.layer_norm_weight",
            "input_layernorm",
            (hidden,),
            alias="input_layernorm.weight",
        ),
        TensorMapping(
            key=f"{here}.self_attention.linear_qkv.weight",
            layer=layer,
            shape=(queries + 2 * keys, hidden),
            names=tuple(f"{there}.self_attn.{part}_proj.weight" for part in "qkv"),
            shapes=((queries, hidden), (keys, hidden), (keys, hidden)),
            merge=lambda tensors: merge_qkv(tensors[0], tensors[1], tensors[2], groups),
            split=lambda fused: list(split_qkv(fused, heads, groups)),
        ),
        same("self_attention.linear_proj.weight", "self_attn.o_proj", (hidden, queries)),
        same(
            "mlp.linear_fc1.layer_norm_weight",
            "post_attention_layernorm",
            (hidden,),
            alias="pre_mlp_layernorm.weight",
        ),
        TensorMapping(
            key=f"{here}.mlp.linear_fc1.weight",
            layer=layer,
            shape=(2 * feed_forward, hidden),
            names=tuple(f"{there}.mlp.{part}_proj.weight" for part in ("gate", "up")),
            shapes=((feed_forward, hidden), (feed_forward, hidden)),
            merge=lambda tensors: merge_gate_up(tensors[0], tensors[1]),
            split=lambda fused: list(split_gate_up(fused)),
        ),
        same("mlp.linear_fc2.weight", "mlp.down_proj", (hidden, feed_forward)),
    ]


def _same(
    key: str, name: str, shape: Shape, layer: int | None = None, alias: str = ""
) -> TensorMapping:
    return TensorMapping(
        key=key,
        layer=layer,
        shape=shape,
        names=(name,),
        shapes=(shape,),
        merge=lambda tensors: tensors[0],
        split=lambda tensor: [tensor],
        alias=alias,
    )
