"""Tokenizers behind one interface, and the exact joining of texts that are already tokenised."""
