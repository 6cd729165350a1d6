"""One optimizer step: rows, batch, loss, update."""
