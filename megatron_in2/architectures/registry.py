"""All model families, by the ``model_type`` of their Hugging Face config."""

from megatron_in2.architectures.base import Architecture
from megatron_in2.architectures.config import ModelConfig
from megatron_in2.architectures.config_file import ConfigFile
from megatron_in2.architectures.llama import Llama
from megatron_in2.architectures.mistral import Mistral
from megatron_in2.architectures.qwen2 import Qwen2
from megatron_in2.architectures.qwen3 import Qwen3
from megatron_in2.architectures.tensors import TensorMapping
from megatron_in2.choices import as_field, wrong_choice
from megatron_in2.errors import InputError

ARCHITECTURES: dict[str, Architecture] = {
    each.model_type: each for each in (Mistral(), Llama(), Qwen2(), Qwen3())
}

# Fields of models that no family here trains, whatever their model_type.
_BEYOND = {
    "num_experts": "a mixture of experts",
    "num_local_experts": "a mixture of experts",
    "n_routed_experts": "a mixture of experts",
    "vision_config": "a model that also reads images",
    "audio_config": "a model that also reads sound",
}


def architecture_of(config: ModelConfig) -> Architecture:
    """Return the family of a model.

    Raises:
        InputError: no family has this name.
    """
    if config.architecture not in ARCHITECTURES:
        shown = as_field("model.architecture", config.architecture)
        raise wrong_choice(shown, tuple(ARCHITECTURES))
    return ARCHITECTURES[config.architecture]


def architecture_of_file(file: ConfigFile) -> Architecture:
    """Return the family of a ``config.json``.

    Raises:
        InputError: no family has its ``model_type`` and class, or it has experts or another input
            than text.
    """
    for name, what in _BEYOND.items():
        if file.get(name):
            raise InputError(
                f"{file.path}: {name} is set: {what} is not trained here: name a directory with "
                f"one of {_known_classes()}"
            )
    kind, names = file.get("model_type"), file.get("architectures", [])
    found = ARCHITECTURES.get(kind)
    if found is None or not set(names) <= {found.class_name}:
        what = f"model_type={kind!r}" + (f" ({', '.join(map(str, names))})" if names else "")
        raise InputError(
            f"{file.path}: {what} is not among the architectures that are converted and trained "
            f"({_known_classes()}): name a directory with one of these"
        )
    return found


def tensor_table(config: ModelConfig) -> list[TensorMapping]:
    """Return every tensor of a model; see :meth:`Architecture.tensor_table`."""
    return architecture_of(config).tensor_table(config)


def parameter_count(config: ModelConfig) -> int:
    """Return the number of trainable parameters of a model, embedding and LM head included."""
    return architecture_of(config).parameter_count(config)


def _known_classes() -> str:
    return ", ".join(each.class_name for each in ARCHITECTURES.values())
