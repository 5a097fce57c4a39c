"""Real vLLM on the CPU as a peer: how it is installed, what it serves, and what is asked of it."""
