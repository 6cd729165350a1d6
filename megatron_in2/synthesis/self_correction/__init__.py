"""Partial Answer Masking data: attempts of the model to be trained, judged and corrected."""
