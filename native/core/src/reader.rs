//! See `rollouts/picker/core/reader.py`.
