"""Decides on requests: bytes and plain values in and out, whatever the transport. Pure."""
