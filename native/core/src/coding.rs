//! See `rollouts/picker/core/coding.py`.
