"""Long- and short-context benchmarks, scored as published."""
