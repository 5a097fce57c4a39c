"""Rollouts as live pages, for people: what ``get``, ``explain`` and ``report`` say, in a browser."""
