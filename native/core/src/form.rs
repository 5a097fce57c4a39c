//! See `rollouts/picker/core/form.py`.
