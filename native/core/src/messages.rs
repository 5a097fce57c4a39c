//! See `rollouts/picker/core/messages.py`.
