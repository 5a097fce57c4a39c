//! See `rollouts/picker/core/measure.py`.
