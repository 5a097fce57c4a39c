"""How long rollouts take that fit their GPUs, and what they cost: ``python -m benchmarks.capacity``."""
