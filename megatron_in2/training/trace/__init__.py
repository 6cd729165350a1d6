"""One rank of a run, at its real size, on a machine that could not hold it."""
