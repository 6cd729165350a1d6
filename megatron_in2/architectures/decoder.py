"""The decoder that the families share.

Each layer is RMSNorm, grouped-query attention with rotary positions, RMSNorm and a SwiGLU
feed-forward layer. A family's file has its additions: biases of the queries, keys and values, or
RMSNorm of each head's queries and keys. No other matrix has a bias.
"""

import dataclasses
from abc import abstractmethod
from typing import Any, ClassVar

from megatron_in2.architectures.base import Architecture, FlopTerms
from megatron_in2.architectures.config import POSITION_FIELDS, ModelConfig
from megatron_in2.architectures.config_file import ConfigFile
from megatron_in2.architectures.layouts import merge_gate_up, merge_qkv, split_gate_up, split_qkv
from megatron_in2.architectures.rope import read_rope, update_rope, write_rope
from megatron_in2.architectures.tensors import Shape, TensorMapping, same_tensor
from megatron_in2.architectures.windows import require_full_layers
from megatron_in2.errors import InputError
from megatron_in2.parallel.config import ParallelConfig

EMBEDDING, HEAD = "embedding.word_embeddings.weight", "output_layer.weight"
# A layer's matrices after its attention.
_AFTER_ATTENTION = ("linear_proj.weight", "linear_fc1.weight", "linear_fc2.weight")

# Our names of sizes, and those of config.json.
_SIZES = {
    "num_layers": "num_hidden_layers",
    "hidden_size": "hidden_size",
    "num_attention_heads": "num_attention_heads",
    "num_query_groups": "num_key_value_heads",
    "ffn_hidden_size": "intermediate_size",
    "vocab_size": "vocab_size",
    "max_position_embeddings": "max_position_embeddings",
}


class Decoder(Architecture):
    """A family of this form. Subclasses give its names and :meth:`require_trainable`."""

    has_qkv_bias: ClassVar[bool] = False
    """The projections to queries, keys and values add a bias."""
    has_qk_norm: ClassVar[bool] = False
    """Each head's queries and keys pass an RMSNorm, shared by all heads, before rotation."""

    @abstractmethod
    def require_trainable(self, file: ConfigFile) -> None:
        """Refuse what this family's configs may request but cannot be trained here.

        Raises:
            InputError: naming the field.
        """

    def default_sizes(self, file: ConfigFile) -> dict[str, int]:
        """Return sizes that this family's configs may leave out, by their names there."""
        return {}

    def read_config(self, file: ConfigFile) -> ModelConfig:
        _require_usual(file)
        self.require_trainable(file)
        defaults = self.default_sizes(file)
        sizes = {ours: file.size(theirs, defaults.get(theirs)) for ours, theirs in _SIZES.items()}
        width = sizes["hidden_size"] // sizes["num_attention_heads"]
        theta, scaling = read_rope(file)
        config = ModelConfig(
            architecture=self.model_type,
            **sizes,
            head_dim=file.size("head_dim", defaults.get("head_dim", width)),
            rope_theta=theta,
            rope_scaling=scaling,
            norm_epsilon=file.number("rms_norm_eps"),
            tie_word_embeddings=file.flag("tie_word_embeddings"),
        )
        try:
            self.validate(config, ParallelConfig())
        except InputError as error:
            raise InputError(f"{file.path}: {error}") from error
        return config

    def write_config(self, config: ModelConfig) -> dict[str, Any]:
        return {
            "architectures": [self.class_name],
            "model_type": self.model_type,
            "attention_dropout": 0.0,
            "hidden_act": "silu",
            "head_dim": config.head_dim,
            "rms_norm_eps": config.norm_epsilon,
            **write_rope(config.rope_theta, config.rope_scaling),
            "tie_word_embeddings": config.tie_word_embeddings,
            "use_cache": True,
            **{theirs: getattr(config, ours) for ours, theirs in _SIZES.items()},
        }

    def update_config(self, source: ConfigFile, config: ModelConfig) -> dict[str, Any]:
        before = self.read_config(source)
        changed = {
            each.name
            for each in dataclasses.fields(config)
            if getattr(config, each.name) != getattr(before, each.name)
        }
        assert changed <= set(POSITION_FIELDS), changed
        fields = dict(source.values)
        if "max_position_embeddings" in changed:
            fields["max_position_embeddings"] = config.max_position_embeddings
        lengthened = ConfigFile(source.path, fields)
        return update_rope(lengthened, config.rope_theta, config.rope_scaling)

    def tensor_table(self, config: ModelConfig) -> list[TensorMapping]:
        hidden, vocabulary = config.hidden_size, config.vocab_size
        table = [same_tensor(EMBEDDING, "model.embed_tokens.weight", (vocabulary, hidden))]
        for layer in range(config.num_layers):
            table.extend(self._layer_tensors(config, layer))
        table.append(same_tensor("decoder.final_layernorm.weight", "model.norm.weight", (hidden,)))
        if not config.tie_word_embeddings:
            table.append(same_tensor(HEAD, "lm_head.weight", (vocabulary, hidden)))
        return table

    def flop_terms(self, config: ModelConfig) -> FlopTerms:
        table = self.tensor_table(config)
        last = config.num_layers - 1
        width = config.num_attention_heads * config.head_dim
        return FlopTerms(
            body=sum(each.size for each in table if each.key not in (EMBEDDING, HEAD)),
            head=config.vocab_size * config.hidden_size,
            after_attention=sum(
                each.size
                for each in table
                if each.layer == last and each.key.endswith(_AFTER_ATTENTION)
            ),
            attention_width=config.num_layers * width,
            last_attention_width=width,
        )

    def gpt_options(self, config: ModelConfig) -> dict[str, Any]:
        return {"position_embedding_type": "rope", "rotary_base": config.rope_theta}

    def transformer_options(self, config: ModelConfig) -> dict[str, Any]:
        return {"add_qkv_bias": self.has_qkv_bias, "qk_layernorm": self.has_qk_norm}

    def extra_activations(self, config: ModelConfig) -> int:
        # The keys' norm keeps a view of what is kept anyway.
        return config.num_attention_heads * config.head_dim if self.has_qk_norm else 0

    def _layer_tensors(self, config: ModelConfig, layer: int) -> list[TensorMapping]:
        hidden, feed_forward = config.hidden_size, config.ffn_hidden_size
        heads, groups = config.num_attention_heads, config.num_query_groups
        width = config.head_dim
        queries, keys = heads * width, groups * width
        here, there = "decoder.layers", f"model.layers.{layer}"

        def same(key: str, name: str, shape: Shape, alias: str = "") -> TensorMapping:
            alias = f"{here}.{alias}" if alias else ""
            return same_tensor(f"{here}.{key}", f"{there}.{name}.weight", shape, layer, alias)

        def fused_qkv(kind: str, columns: Shape) -> TensorMapping:
            return TensorMapping(
                key=f"{here}.self_attention.linear_qkv.{kind}",
                layer=layer,
                shape=(queries + 2 * keys, *columns),
                names=tuple(f"{there}.self_attn.{part}_proj.{kind}" for part in "qkv"),
                shapes=((queries, *columns), (keys, *columns), (keys, *columns)),
                merge=lambda tensors: merge_qkv(tensors[0], tensors[1], tensors[2], groups),
                split=lambda fused: list(split_qkv(fused, heads, groups)),
            )

        head_norms = [
            same(f"self_attention.{part}_layernorm.weight", f"self_attn.{part}_norm", (width,))
            for part in "qk"
        ]
        return [
            same(
                "self_attention.linear_qkv.layer_norm_weight",
                "input_layernorm",
                (hidden,),
                alias="input_layernorm.weight",
            ),
            fused_qkv("weight", (hidden,)),
            *([fused_qkv("bias", ())] if self.has_qkv_bias else []),
            *(head_norms if self.has_qk_norm else []),
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


def _require_usual(file: ConfigFile) -> None:
    """Refuse what cannot be trained here in any family of this form."""
    require_full_layers(file)
    if file.get("hidden_act", "silu") != "silu":
        raise file.refusal("hidden_act", "only silu is trained")
    if file.number("attention_dropout", 0.0):
        raise file.refusal("attention_dropout", "training here has no dropout: set it to 0")
    if file.get("quantization_config"):
        raise InputError(
            f"{file.path}: quantization_config is set: quantised weights are not exact; name the "
            "directory of the unquantised model"
        )


def require_no_bias(file: ConfigFile, *names: str) -> None:
    """Refuse biases that cannot be trained here.

    Raises:
        InputError: naming the field.
    """
    for name in names:
        if file.flag(name):
            raise file.refusal(name, "only layers without this bias are trained")
