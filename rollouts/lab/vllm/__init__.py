"""Simulated vLLM pods: real HTTP servers with vLLM's metrics, codes, streams and LoRA endpoints."""
