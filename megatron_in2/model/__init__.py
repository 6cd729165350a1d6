"""A Megatron-Core GPT model that computes its head at answer positions only."""
