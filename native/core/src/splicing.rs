//! See `rollouts/picker/core/splicing.py`.
