//! See `rollouts/picker/core/body.py`.
