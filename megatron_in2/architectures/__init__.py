"""Model families: what each one's configuration, tensors and arithmetic are."""
