"""Model families: the configuration, tensors and arithmetic of each."""
