"""The interface of a model family."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.architectures.config_file import ConfigFile
from megatron_in2.architectures.tensors import TensorMapping
from megatron_in2.parallel.config import ParallelConfig


@dataclass(frozen=True)
class FlopTerms:
    """The counts from which floating-point operations are computed.

    Args:
        body: parameters that every token uses: all but the embedding and the LM head.
        head: parameters of the LM head, tied or not.
        after_attention: parameters of the last layer's matrices after its attention, part of body.
        attention_width: query heads x head width, summed over the layers.
        last_attention_width: the last layer's part of that sum.
    """

    body: int
    head: int
    after_attention: int
    attention_width: int
    last_attention_width: int


class Architecture(ABC):
    """One model family: its Hugging Face config, its tensors, its form in Megatron-Core, its size.

    Everything that depends on a family is in its class; conversion, training, planning and export
    get it from the registry. Instances have no state.
    """

    model_type: ClassVar[str]
    """``model_type`` of its ``config.json``, and ``ModelConfig.architecture``."""
    class_name: ClassVar[str]
    """transformers' class of its causal language model."""
    title: ClassVar[str]
    """Its name on model cards and in messages."""

    @abstractmethod
    def read_config(self, file: ConfigFile) -> ModelConfig:
        """Translate a ``config.json`` of this family.

        Raises:
            InputError: a field is missing, has a wrong type, or requests something that cannot be
                trained here.
        """

    @abstractmethod
    def write_config(self, config: ModelConfig) -> dict[str, Any]:
        """Return the fields of a ``config.json`` that transformers 4 and 5 both read."""

    @abstractmethod
    def update_config(self, source: ConfigFile, config: ModelConfig) -> dict[str, Any]:
        """Return all fields of a source's ``config.json``, with the changes of a run.

        Args:
            source: the ``config.json`` of the imported model.
            config: the current sizes; only ``POSITION_FIELDS`` may differ from the source's.
        """

    @abstractmethod
    def tensor_table(self, config: ModelConfig) -> list[TensorMapping]:
        """Return every tensor of the model, in the order of the model."""

    @abstractmethod
    def flop_terms(self, config: ModelConfig) -> FlopTerms:
        """Return the terms from which floating-point operations are computed."""

    def transformer_options(self, config: ModelConfig) -> dict[str, Any]:
        """Return this family's arguments of Megatron-Core's ``TransformerConfig``."""
        return {}

    def gpt_options(self, config: ModelConfig) -> dict[str, Any]:
        """Return this family's arguments of Megatron-Core's ``GPTModel``."""
        return {}

    def extra_activations(self, config: ModelConfig) -> int:
        """Return the elements per token that a layer keeps beyond those of the shared decoder.

        Those of the shared decoder are listed in ``training/arithmetic/memory.py``.
        """
        return 0

    def parameter_count(self, config: ModelConfig) -> int:
        """Return the number of trainable parameters, the embedding and the LM head included."""
        return sum(mapping.size for mapping in self.tensor_table(config))

    def validate(self, config: ModelConfig, parallel: ParallelConfig) -> None:
        """Check the sizes, alone and against the parallel layout.

        Raises:
            InputError: naming the field, its value and the remedy.
        """
        config.validate(parallel)

    def is_derived(self, name: str) -> bool:
        """Return whether files may have a redundant tensor of this name, derived from config."""
        return False

    def release(self, config: ModelConfig) -> str:
        """Return the name of the published model with these sizes; empty for none."""
        return ""

    def doubts(self, config: ModelConfig) -> list[str]:
        """Return warnings about unusual sizes, one sentence each."""
        return []
