//! See `rollouts/picker/core/answering.py`.
