"""Files that ``plan`` and ``backtest`` are given: documents, gates and recordings; what cannot be read is said."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from rollouts.analysis.backtest import Replayed
from rollouts.analysis.comparisons import GatesError
from rollouts.analysis.recording import Recording, RecordingError, read_recording
from rollouts.api.gates_file import parse_gates
from rollouts.cli.lint_kinds import objects_in
from rollouts.cli.yaml_source import read_yaml

__all__ = ["FILE", "FILE_OR_STDIN", "BadInput", "load_documents", "load_gates", "load_recording"]

_MAX_RECORDING = 1024 * 1024 * 1024
_MAX_YAML = 1024 * 1024

_STDIN = Path("-")


class _File(click.Path):
    """A file that is there, or ``-`` as it was typed: `./-` is a file, which no Path keeps apart from it."""

    def __init__(self, *, allow_dash: bool = False) -> None:
        super().__init__(exists=True, dir_okay=False, allow_dash=allow_dash, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The Path; raises BadParameter as click does."""
        path = super().convert(value, param, ctx)
        return path.absolute() if path == _STDIN and not (self.allow_dash and value == "-") else path


FILE = _File()
FILE_OR_STDIN = _File(allow_dash=True)


class BadInput(click.ClickException):
    """Something the user gave cannot be read; exit code 2."""

    exit_code = 2


def load_documents(path: Path) -> list[Any]:
    """The documents of a YAML or JSON file, as `lint` and kubectl read them, Lists taken apart; raises BadInput."""
    try:
        data = _bytes(path)
        if len(data) > _MAX_YAML:
            raise BadInput(f"{path}: larger than {_MAX_YAML} bytes")
        documents, faults = read_yaml(data)
    except OSError as error:
        raise BadInput(f"{path}: {error}") from error
    for fault in faults:
        raise BadInput(f"{path}:{fault.line}:{fault.column}: {fault.text}")
    return [item for one in documents for item in _items(one.value)]


def _bytes(path: Path) -> bytes:
    """A little more than the limit of a file, or of standard input. Raises OSError and BadInput."""
    if path != _STDIN:
        with path.open("rb") as file:
            return file.read(_MAX_YAML + 1)
    if sys.stdin is None:  # closed by the caller (<&-)
        raise BadInput("standard input is closed")
    return sys.stdin.buffer.read(_MAX_YAML + 1)


def _items(value: Any) -> list[Any]:
    return [obj for _, obj in objects_in(value)] if isinstance(value, Mapping) else [value]


def load_recording(path: Path) -> Recording:
    """A recording from a file, or from standard input as `record` writes it; raises BadInput."""
    try:
        if path == _STDIN and sys.stdin is not None:
            return read_recording(sys.stdin)
        if path.stat().st_size > _MAX_RECORDING:
            raise BadInput(f"{path}: larger than {_MAX_RECORDING} bytes")
        with path.open(encoding="utf-8") as lines:
            return read_recording(lines)
    except (OSError, UnicodeDecodeError, RecordingError) as error:
        raise BadInput(f"{path}: {error}") from error


def load_gates(path: Path, interval: float) -> Replayed:
    """Gates from a file of one document; raises BadInput."""
    documents = load_documents(path)
    if len(documents) != 1:
        raise BadInput(f"{path}: expected one document with a list of metrics, found {len(documents)}")
    try:
        return parse_gates(documents[0], interval=interval)
    except GatesError as error:
        raise BadInput(f"{path}: {error}") from error
