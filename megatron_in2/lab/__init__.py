"""A laboratory: small studies of what a data design does to a model."""
