//! See `rollouts/picker/core/restore.py`.
