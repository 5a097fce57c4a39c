"""The inside of a sandboxed process: limits on itself, then requests and answers, JSON lines on stdin and stdout.

The limits hold whatever the parent does (setrlimit(2), setitimer(2)): memory, no files, no further processes, and CPU
per request by a profiling timer, whose signal ends the process. An exception of the work itself is a bug and ends it,
too.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["CPU_SECONDS", "MEMORY_BYTES", "serve_requests"]

CPU_SECONDS = 0.5
"""Of one request: a healthy condition takes 0.02 s when it is compiled and 0.001 s afterwards."""

MEMORY_BYTES = 512 << 20
"""Of address space: the interpreter and its libraries reserve about 200 MiB, and use 40."""

_HARD_CPU_SECONDS = 2
"""Should the timer be lost: the kernel's own limit, in whole seconds beyond what was used."""


def serve_requests(answer: Callable[[Any], Any]) -> None:
    """Answer one line of JSON with another until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which closes our input
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    sys.stdout.write("\n")  # ready
    sys.stdout.flush()
    for line in sys.stdin:
        used = resource.getrusage(resource.RUSAGE_SELF)
        whole = int(used.ru_utime + used.ru_stime) + _HARD_CPU_SECONDS
        resource.setrlimit(resource.RLIMIT_CPU, (whole, resource.RLIM_INFINITY))
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        said = json.dumps(answer(json.loads(line)))
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(said + "\n")
        sys.stdout.flush()
