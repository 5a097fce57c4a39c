"""Objects from a YAML file or a folder of them, read again when they change. Needs no API server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import structlog
import yaml

__all__ = ["FileSource", "ObjectsUnreadable", "load_objects"]

MAX_BYTES = 32 << 20
"""Of all files together: 10,000 pods are about 20 MB."""

_SUFFIXES = frozenset({".yaml", ".yml", ".json"})
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_log = structlog.get_logger(__name__)

Signature = tuple[tuple[str, int, int], ...]


class ObjectsUnreadable(Exception):
    """The file or folder cannot be read now. The message names it and says what to do."""


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES and file.is_file())
    return [path]


def signature(path: Path) -> Signature:
    """Changes whenever a file is written, added or removed. Raises ObjectsUnreadable."""
    try:
        stats = [(file, file.stat()) for file in _files(path)]
    except OSError as error:
        raise ObjectsUnreadable(f"cannot read {path}: {error.strerror}; check --objects") from error
    return tuple((str(file), stat.st_mtime_ns, stat.st_size) for file, stat in stats)


def load_objects(path: Path) -> list[Mapping[str, Any]]:
    """All objects in the file or folder; the items of a List kind one by one. Raises ObjectsUnreadable."""
    total = 0
    found: list[Mapping[str, Any]] = []
    try:
        for file in _files(path):
            text = file.read_bytes()
            total += len(text)
            if total > MAX_BYTES:
                raise ObjectsUnreadable(f"{path} holds more than {MAX_BYTES} bytes; leave out other objects")
            for document in yaml.load_all(text, Loader=_Loader):
                found.extend(_flat(document))
    except OSError as error:
        raise ObjectsUnreadable(f"cannot read {path}: {error.strerror}; check --objects") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ObjectsUnreadable(f"{path} is not YAML: {error}"[:500]) from error
    return found


def _flat(document: object) -> Iterator[Mapping[str, Any]]:
    if not isinstance(document, Mapping):
        return
    items = document.get("items")
    if str(document.get("kind", "")).endswith("List") and isinstance(items, list):
        yield from (item for item in items if isinstance(item, Mapping))
    else:
        yield document


class FileSource:
    """Calls ``on_change`` with all objects at the start and after each change of the files.

    A file that cannot be read, or is half-written, changes nothing: the last good state stays.
    """

    def __init__(
        self, path: Path, on_change: Callable[[list[Mapping[str, Any]]], None], *, interval: float = 0.5
    ) -> None:
        self._path = path
        self._on_change = on_change
        self._interval = interval
        self._seen: Signature | None = None
        self._complaint = ""

    def load(self) -> None:
        """Read now. Raises ObjectsUnreadable."""
        seen = signature(self._path)
        self._on_change(load_objects(self._path))
        self._seen = seen

    async def run(self) -> None:
        """Poll for ever. Polling and not inotify: it works on every mounted volume."""
        while True:
            await asyncio.sleep(self._interval)
            await self.poll()

    async def poll(self) -> None:
        """One look at the files."""
        try:
            seen = await asyncio.to_thread(signature, self._path)
            if seen == self._seen:
                return
            objects = await asyncio.to_thread(load_objects, self._path)
        except ObjectsUnreadable as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                _log.warning("objects_unreadable", path=str(self._path), error=self._complaint)
            return
        self._complaint = ""
        self._seen = seen
        self._on_change(objects)
