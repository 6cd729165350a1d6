"""Corpus to IN2 samples: documents, segments, questions, composed contexts."""
