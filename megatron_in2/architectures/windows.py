"""Sliding windows: refused unless they are as long as the longest sample."""

from megatron_in2.architectures.config_file import ConfigFile

FULL = "full_attention"


def require_full_attention(file: ConfigFile) -> None:
    """Refuse a config of Qwen's form in which any layer has a sliding window.

    Raises:
        InputError: naming the field.
    """
    kinds = file.get("layer_types", [])
    if set(kinds) - {FULL}:
        raise file.refusal("layer_types", f"only {FULL} in every layer is trained")
    if file.flag("use_sliding_window") and shortens_attention(file):
        raise file.refusal("use_sliding_window", "only full attention is trained")


def shortens_attention(file: ConfigFile) -> bool:
    """Return whether ``sliding_window`` is shorter than the longest sample."""
    return file.size("sliding_window") < file.size("max_position_embeddings")
