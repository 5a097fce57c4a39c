"""Benchmarks of the controller: scale on a real kube-apiserver, and the time from an abort to 0 % canary."""
