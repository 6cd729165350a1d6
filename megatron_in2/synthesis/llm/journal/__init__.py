"""Paid answers on disk: every request, its answer and its price, written before it is used."""
