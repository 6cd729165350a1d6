"""Logits of Megatron-Core's model and of transformers', layer by layer: one layer is in memory.

Both sides build their own model with a single layer, in float32, and refill that layer's weights
as they go up. Positions need not be contiguous: a few tokens reach the whole range of the rotary
embedding.
"""

from dataclasses import replace
from pathlib import Path

import torch
from megatron.core.dist_checkpointing.mapping import ShardedTensor, apply_factories

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.architectures.registry import tensor_table
from megatron_in2.conversion.huggingface_reader import HuggingFaceReader
from megatron_in2.conversion.megatron_reader import MegatronReader
from megatron_in2.model.build import build_model
from megatron_in2.model.gpt import AnswerGPTModel
from megatron_in2.model.packed_row import packed_row
from megatron_in2.parallel.config import ParallelConfig
from megatron_in2.parallel.world import World
from megatron_in2.progress import progress_bar


@torch.no_grad()
def megatron_logits(
    step: Path, config: ModelConfig, tokens: torch.Tensor, positions: torch.Tensor, world: World
) -> torch.Tensor:
    """Return the float32 logits [N, V] of Megatron-Core's layers with a step's weights.

    Args:
        step: a complete step.
        config: its architecture.
        tokens: ids, int64 [N], of one sample.
        positions: their positions, int64 [N], rising.
        world: a world of one rank.
    """
    reader = MegatronReader(step, config)
    model = build_model(replace(config, num_layers=1), ParallelConfig(), world, torch.float32)
    model.eval()
    tokens, positions = tokens.to(world.device), positions.to(world.device)
    row = packed_row([len(tokens)], world.device)
    rotary = model.rotary_pos_emb(int(positions[-1]) + 1, packed_seq=True)[positions]
    _fill_megatron(model, reader, config, layer=None)
    hidden = model.embedding(input_ids=tokens.unsqueeze(0), position_ids=positions.unsqueeze(0))
    for layer in progress_bar(range(config.num_layers), desc="Megatron", unit=" layers"):
        _fill_megatron(model, reader, config, layer)
        hidden, _ = model.decoder.layers[0](
            hidden, attention_mask=None, rotary_pos_emb=rotary, packed_seq_params=row
        )
    is_tied = config.tie_word_embeddings
    logits, _ = model.output_layer(
        model.decoder.final_layernorm(hidden),
        weight=model.shared_embedding_or_output_weight() if is_tied else None,
    )
    return logits.squeeze(1).float().cpu()  # type: ignore[no-any-return]


@torch.no_grad()
def transformers_logits(
    reader: HuggingFaceReader, config: ModelConfig, tokens: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    """Return the float32 logits [N, V] of transformers' layers with a directory's weights.

    Arguments are those of :func:`megatron_logits`; ``config.json`` is read by transformers
    itself.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = AutoConfig.from_pretrained(reader.folder)
    settings.num_hidden_layers = 1
    model = AutoModelForCausalLM.from_config(settings, dtype=torch.float32).eval()
    _fill_transformers(model, reader, config, layer=None)
    hidden = model.model.embed_tokens(tokens.unsqueeze(0))
    rotary = model.model.rotary_emb(hidden, positions.unsqueeze(0))
    for layer in progress_bar(range(config.num_layers), desc="transformers", unit=" layers"):
        _fill_transformers(model, reader, config, layer)
        hidden = model.model.layers[0](hidden, position_embeddings=rotary)
    return model.lm_head(model.model.norm(hidden)).squeeze(0)  # type: ignore[no-any-return]


def _fill_megatron(
    model: AnswerGPTModel, reader: MegatronReader, config: ModelConfig, layer: int | None
) -> None:
    """Put a layer's weights into the model's only layer, or those outside the layers (None).

    The model's own sharded state says where each stored tensor goes, whatever its backend calls
    its parameters.
    """
    state = model.sharded_state_dict()
    apply_factories(state)
    for mapping in tensor_table(config):
        if mapping.layer != layer:
            continue
        tensor = reader.read(mapping)
        for shard in _shards_of(state, mapping.key):
            start = shard.global_offset[shard.prepend_axis_num]
            shard.data.copy_(tensor[start : start + shard.data.size(0)])


def _shards_of(state: dict[str, object], key: str) -> list[ShardedTensor]:
    """Return the parts of a stored tensor: two for gate and up, else one."""
    values = [part for value in state.values() for part in _parts(value)]
    found = [value for value in values if isinstance(value, ShardedTensor) and value.key == key]
    assert found, key
    return found


def _parts(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _fill_transformers(
    model: torch.nn.Module, reader: HuggingFaceReader, config: ModelConfig, layer: int | None
) -> None:
    for mapping in tensor_table(config):
        if mapping.layer != layer:
            continue
        for name, shape in zip(mapping.names, mapping.shapes, strict=True):
            own = name.replace(f"model.layers.{layer}.", "model.layers.0.")
            model.get_parameter(own).copy_(reader.read(name, shape))
