"""Fault plans: the assembled controller against an in-memory cluster that fails in enumerated ways.

Everything is deterministic and single-threaded in virtual time. ``scenarios`` holds the workloads, ``plans`` the
enumeration, ``simulation`` runs one plan, and ``invariants`` judges the history of all writes that it leaves.
The fault classes follow Sieve (Sun et al., OSDI 2022): crashes between writes, stale and unobserved states.
"""
