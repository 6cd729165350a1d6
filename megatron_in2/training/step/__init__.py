"""One optimizer step, in the order of the data: rows, batch, loss, update."""
