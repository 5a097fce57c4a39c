"""Runs all cases at one picker, and prints the outcome."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import grpc
import grpc.aio
from rich.table import Table
from rich.text import Text

from rollouts.picker.conformance.cases import Case, load_cases
from rollouts.picker.conformance.checks import judge
from rollouts.picker.conformance.driver import ExtProcStream, Failure

__all__ = ["CaseResult", "check_picker", "render"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """How one case went. ``problem`` is empty when the picker does it right."""

    name: str
    problem: str
    reason: str
    source: str

    @property
    def passed(self) -> bool:
        """Whether the picker does it right."""
        return not self.problem

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "passed": self.passed}


async def check_picker(
    address: str,
    *,
    model: str,
    tls: bool = False,
    timeout: float = 5.0,
    cases: Iterable[Case] | None = None,
) -> list[CaseResult]:
    """Run the cases one after the other. Raises OSError when nothing answers at ``address``."""
    results = []
    async with _open(address, tls=tls) as channel:
        for case in load_cases() if cases is None else cases:
            problem = await _run(case, lambda: ExtProcStream(channel, model, timeout=timeout))
            results.append(
                CaseResult(name=case.name, problem=problem, reason=case.reason, source=case.source)
            )
    return results


_LOCAL_RACE = "Internal error from Core"
"""What grpc.aio itself reports, in place of the server's status, when a write meets the end of the stream."""
_TRIES = 3


async def _run(case: Case, session: Callable[[], ExtProcStream]) -> str:
    """What is wrong, or nothing. A status that our own side made up says nothing of the picker: once more."""
    problem = ""
    for _ in range(_TRIES):
        try:
            await judge(case, session())
            return ""
        except Failure as failure:
            problem = str(failure)
        if _LOCAL_RACE not in problem:
            break
    return problem


def _open(address: str, *, tls: bool) -> Any:
    if not tls:
        return grpc.aio.insecure_channel(address)
    host, _, port = address.rpartition(":")
    # Pickers serve a self-signed certificate that gateways do not verify: trust what is served.
    certificate = ssl.get_server_certificate((host.strip("[]"), int(port)), timeout=5).encode()
    options = [("grpc.ssl_target_name_override", "localhost")]
    return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(certificate), options=options)


def render(results: Iterable[CaseResult]) -> Table:
    """A table for people: what was tried, how it went, and why it matters where it went wrong."""
    table = Table("case", "result", "what happened, and why it matters")
    for result in results:
        verdict = Text("ok", style="green") if result.passed else Text("wrong", style="red")
        note = "" if result.passed else f"{result.problem}\n{result.reason} ({result.source})"
        table.add_row(result.name, verdict, note)
    return table
