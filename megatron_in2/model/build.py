"""Builds this rank's part of a model."""

import torch

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.architectures.registry import architecture_of
from megatron_in2.model.backend import block_spec, choose_backend, require_fp8
from megatron_in2.model.gpt import AnswerGPTModel
from megatron_in2.model.rotary import rotary_frequencies
from megatron_in2.model.transformer_config import transformer_config
from megatron_in2.parallel.config import ParallelConfig
from megatron_in2.parallel.world import World


def build_model(
    model: ModelConfig,
    parallel: ParallelConfig,
    world: World,
    dtype: torch.dtype,
    recompute: str = "none",
    fp8: str = "",
    backend: str = "auto",
    logits: str = "answers",
) -> AnswerGPTModel:
    """Build this rank's part of the model on its device. Its weights are not yet set.

    Args:
        model: family and sizes.
        parallel: the layout.
        world: this rank's place in it.
        dtype: of weights and activations.
        recompute: none | selective (norms and products) | full (all layers).
        fp8: format of matrix products: hybrid | e4m3; empty for none.
        backend: auto | torch | transformer_engine.
        logits: answers | all, where the LM head runs.

    Raises:
        InputError: the requested backend or FP8 cannot run on this machine.
    """
    backend = choose_backend(backend)
    require_fp8(fp8, backend)
    config = transformer_config(model, parallel, dtype, backend, recompute, fp8)
    instance = AnswerGPTModel(
        true_vocab_size=model.vocab_size,
        logits=logits,
        config=config,
        transformer_layer_spec=block_spec(
            backend,
            model.num_layers // parallel.pipeline,
            # FP8 products need a multiple of 16 tokens, which answers are not.
            ends_in_head=world.is_last_stage and logits == "answers" and not fp8,
            has_qk_norm=config.qk_layernorm,
            recompute=recompute,
        ),
        vocab_size=model.padded_vocab_size(parallel.tensor),
        max_sequence_length=model.max_position_embeddings,
        pre_process=world.is_first_stage,
        post_process=world.is_last_stage,
        share_embeddings_and_output_weights=model.tie_word_embeddings,
        **architecture_of(model).gpt_options(model),
    )
    instance.rotary_pos_emb.inv_freq = rotary_frequencies(model).to(world.device)
    instance.to(world.device)
    return instance
