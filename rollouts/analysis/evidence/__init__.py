"""Canary against stable, from raw counters, with a bounded probability of a false abort."""
