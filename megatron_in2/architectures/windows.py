"""Sliding windows: refused unless they are as long as the longest sample."""

from typing import Any

from megatron_in2.architectures.config_file import ConfigFile

FULL = "full_attention"
WINDOW, SWITCH = "sliding_window", "use_sliding_window"


def require_full_layers(file: ConfigFile) -> None:
    """Refuse a config that gives any layer another attention than the full one.

    Raises:
        InputError: naming the field.
    """
    if set(file.get("layer_types", [])) - {FULL}:
        raise file.refusal("layer_types", f"only {FULL} in every layer is trained")


def require_no_window(file: ConfigFile) -> None:
    """Refuse a config of Qwen's form with a window that is switched on.

    Raises:
        InputError: naming the field.
    """
    if file.flag(SWITCH) and shortens_attention(file):
        raise file.refusal(SWITCH, "only full attention is trained")


def without_passed_window(source: ConfigFile, fields: dict[str, Any]) -> dict[str, Any]:
    """Return a config of Qwen's form; a window that training has gone beyond is switched off.

    Args:
        source: the config of the imported model.
        fields: those of the export.
    """
    if source.flag(SWITCH) and shortens_attention(ConfigFile(source.path, fields)):
        return fields | {SWITCH: False}
    return fields


def shortens_attention(file: ConfigFile) -> bool:
    """Return whether ``sliding_window`` is shorter than the longest sample."""
    return file.size(WINDOW) < file.size("max_position_embeddings")
