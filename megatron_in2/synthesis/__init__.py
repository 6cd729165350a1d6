"""A corpus to IN2 samples: segments, questions, composed contexts."""
