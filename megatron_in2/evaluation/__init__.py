"""Long-context probing and benchmarks."""
