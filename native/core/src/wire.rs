//! See `rollouts/picker/core/wire.py`.
