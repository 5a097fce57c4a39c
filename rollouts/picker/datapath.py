"""Which code answers gateways: the native (Rust) one, where it is installed, or the Python one."""

from __future__ import annotations

from enum import StrEnum
from importlib.util import find_spec

__all__ = ["AUTO", "MODULE", "DataPath", "choose"]

MODULE = "inference_rollouts_native"


class DataPath(StrEnum):
    """What ``--data-path`` takes."""

    AUTO = "auto"
    NATIVE = "native"
    PYTHON = "python"


AUTO = DataPath.PYTHON
"""What ``auto`` means: the path whose decisions are known to be right. The native one becomes it once ``tests/native``
shows that both give equal bytes, decisions and measurements."""


def choose(wanted: DataPath) -> DataPath:
    """The path that runs: never ``auto``. Raises ValueError for a native one that is not installed."""
    path = AUTO if wanted is DataPath.AUTO else wanted
    if path is DataPath.PYTHON or find_spec(MODULE) is not None:
        return path
    if wanted is DataPath.AUTO:
        return DataPath.PYTHON
    raise ValueError(
        "the native data path is not installed: pip install 'inference-rollouts[native]', or in a checkout with cargo"
        " `make setup`; else use --data-path python"
    )
