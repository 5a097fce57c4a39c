//! See `rollouts/picker/core/charset.py`.
