"""The effect in small: data placement alone decides whether a model can use its middle."""
