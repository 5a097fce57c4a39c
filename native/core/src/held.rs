//! See `rollouts/picker/core/held.py`.
