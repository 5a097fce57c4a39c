"""Which code answers gateways: the native (Rust) one, where it is installed, or the Python one."""

from __future__ import annotations

from enum import StrEnum
from importlib import import_module
from importlib.metadata import version

import structlog

__all__ = ["AUTO", "MODULE", "DataPath", "choose"]

MODULE = "inference_rollouts_native"
_log = structlog.get_logger(__name__)


class DataPath(StrEnum):
    """What ``--data-path`` takes."""

    AUTO = "auto"
    NATIVE = "native"
    PYTHON = "python"


AUTO = DataPath.NATIVE
"""What ``auto`` means where both are there: the faster one, since no comparison found a difference (docs/native.md)."""


def choose(wanted: DataPath) -> DataPath:
    """The path that runs: never ``auto``. Raises ValueError for a native one that cannot be used, and says why."""
    path = AUTO if wanted is DataPath.AUTO else wanted
    if path is DataPath.PYTHON or not (why := _missing()):
        return path
    if wanted is DataPath.NATIVE:
        raise ValueError(f"the native data path {why}; else use --data-path python")
    _log.warning("native_data_path_unavailable", reason=f"the native data path {why}", data_path="python")
    return DataPath.PYTHON


def _missing() -> str:
    """Why the extension cannot be used, empty where it can: one for another libc or processor is there, and fails."""
    try:
        found = import_module(MODULE)
    except ModuleNotFoundError as error:
        if error.name == MODULE:
            return (
                "is not installed: pip install 'inference-rollouts[native]', or `make setup` where cargo is"
            )
        return f"cannot be loaded: {error}"
    except ImportError as error:
        return (
            f"is installed but cannot be loaded here (built for another libc, processor or Python?): {error}"
        )
    ours, theirs = version("inference-rollouts"), getattr(found, "__version__", "none")
    if theirs != ours:  # two halves of one picker: what goes over the border changes with any release
        return f"is of version {theirs} and the picker of {ours}: pip install 'inference-rollouts[native]=={ours}'"
    return ""
