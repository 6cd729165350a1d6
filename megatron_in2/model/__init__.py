"""A Megatron-Core GPT model whose LM head runs at answer positions only."""
