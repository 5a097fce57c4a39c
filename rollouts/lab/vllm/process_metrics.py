"""The process series that every Python server exposes, with the pod's own start time."""

from __future__ import annotations

import gc
import os
import platform
import resource
import time
from pathlib import Path

from rollouts.lab.vllm.exposition import format_value

__all__ = ["process_lines"]

_PAGE = os.sysconf("SC_PAGE_SIZE")


def process_lines(started: float) -> list[str]:
    """Exposition lines. ``started`` is Unix time; the rest is of the process that hosts the pods."""
    lines: list[str] = []
    statistics = gc.get_stats()
    for name, key in (
        ("objects_collected", "collected"),
        ("objects_uncollectable", "uncollectable"),
        ("collections", "collections"),
    ):
        lines += _head(f"python_gc_{name}_total", "counter", f"Garbage collector: {name}.")
        lines += [
            f'python_gc_{name}_total{{generation="{generation}"}} {entry[key]}.0'
            for generation, entry in enumerate(statistics)
        ]
    major, minor, patch = platform.python_version_tuple()
    labels = {
        "implementation": platform.python_implementation(),
        "major": major,
        "minor": minor,
        "patchlevel": patch,
        "version": platform.python_version(),
    }
    text = ",".join(f'{key}="{value}"' for key, value in labels.items())
    lines += [*_head("python_info", "gauge", "The interpreter."), f"python_info{{{text}}} 1.0"]
    virtual, resident = (int(pages) * _PAGE for pages in Path("/proc/self/statm").read_text().split()[:2])
    for name, kind, value in (
        ("process_virtual_memory_bytes", "gauge", virtual),
        ("process_resident_memory_bytes", "gauge", resident),
        ("process_start_time_seconds", "gauge", started),
        ("process_cpu_seconds_total", "counter", time.process_time()),
        ("process_open_fds", "gauge", len(os.listdir("/proc/self/fd"))),
        ("process_max_fds", "gauge", resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
    ):
        lines += [*_head(name, kind, "Of the server's process."), f"{name} {format_value(value)}"]
    return lines


def _head(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
