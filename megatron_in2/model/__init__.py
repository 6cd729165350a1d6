"""The Mistral architecture on Megatron-Core."""
