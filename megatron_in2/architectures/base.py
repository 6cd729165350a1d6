"""What a model family must define."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.architectures.config_file import ConfigFile
from megatron_in2.architectures.tensors import TensorMapping
from megatron_in2.parallel.config import ParallelConfig


@dataclass(frozen=True)
class FlopTerms:
    """The counts that a model's floating-point operations are made of.

    Args:
        body: parameters that every token passes: all but the embedding and the LM head.
        head: parameters of the LM head, tied or not.
        behind_attention: of the body, the last layer's matrices that follow its attention.
        attention_width: query heads x head width, summed over the layers.
        last_attention_width: the last layer's part of it.
    """

    body: int
    head: int
    behind_attention: int
    attention_width: int
    last_attention_width: int


class Architecture(ABC):
    """One model family: its Hugging Face config, its tensors, its form in Megatron-Core, its size.

    Everything that depends on a family is here; conversion, training, planning and export ask
    the registry for it. Instances have no state.
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
            InputError: a field that is missing or of another type, or one that asks for what
                this project does not train.
        """

    @abstractmethod
    def write_config(self, config: ModelConfig) -> dict[str, Any]:
        """Return the fields of a ``config.json`` that transformers 4 and 5 both read."""

    @abstractmethod
    def update_config(self, source: ConfigFile, config: ModelConfig) -> dict[str, Any]:
        """Return a source's fields, all of them, with those changed that a run has changed.

        Args:
            source: the ``config.json`` that the run's model came with.
            config: the sizes now; they differ from the source's in ``POSITION_FIELDS`` alone.
        """

    @abstractmethod
    def tensor_table(self, config: ModelConfig) -> list[TensorMapping]:
        """Return every tensor of the model, in the order of the model."""

    @abstractmethod
    def flop_terms(self, config: ModelConfig) -> FlopTerms:
        """Return what floating-point operations are counted from."""

    def transformer_options(self, config: ModelConfig) -> dict[str, Any]:
        """Return what this family changes in Megatron-Core's ``TransformerConfig``."""
        return {}

    def gpt_options(self, config: ModelConfig) -> dict[str, Any]:
        """Return what this family changes in the arguments of Megatron-Core's ``GPTModel``."""
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
        """Say whether files may hold a tensor of this name that follows from the config."""
        return False

    def release(self, config: ModelConfig) -> str:
        """Return which published model has these sizes; empty for none."""
        return ""

    def doubts(self, config: ModelConfig) -> list[str]:
        """Return what about the sizes should make a user look twice, a sentence each."""
        return []
