//! See `rollouts/picker/core/content.py`.
