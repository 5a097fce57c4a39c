//! See `rollouts/picker/core/encoding.py`.
