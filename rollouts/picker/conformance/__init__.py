"""Drives any endpoint picker over gRPC as Envoy would, and says what it does right."""
