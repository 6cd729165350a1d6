"""Everything in one go on a small machine: it only starts commands."""
