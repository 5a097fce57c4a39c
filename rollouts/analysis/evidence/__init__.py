"""Canary against stable, from raw counters, with a bounded probability of a false abort.

Feed an `EvidenceProcess` one `Scrape` per interval; ask `harm` for the whole rollout, `judge` for a gate, `report`
and `describe` for what to show; `save` and `restore` carry the state over restarts.
"""
