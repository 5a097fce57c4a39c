//! See `rollouts/picker/core/refusals.py`.
