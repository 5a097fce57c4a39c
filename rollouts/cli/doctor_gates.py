"""What ``lint`` says of a Rollout of the cluster: its gates, with the templates that are there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from rollouts.cli.findings import Check, bad, warn
from rollouts.cli.lint import lint_documents
from rollouts.cli.lint_findings import Severity
from rollouts.cli.lint_live import named_by
from rollouts.kube.client import KubeClient

__all__ = ["gate_checks"]

_GATES = ("gate", "promql", "template-missing", "strategy-missing")


async def gate_checks(client: KubeClient, rollout: Mapping[str, Any], namespace: str) -> AsyncIterator[Check]:
    """Gates that would be refused, templates that are not there, queries that are no PromQL."""
    live = await named_by(client, rollout, namespace)
    # In a thread: conditions are checked in a process, which lint waits for.
    found = await asyncio.to_thread(lint_documents, [dict(rollout)], live=live)
    for one in found:
        if one.rule in _GATES:
            make = bad if one.severity is Severity.PROBLEM else warn
            said = one.text.replace("is neither in these files nor in the cluster", "is not in the cluster")
            text = f"{one.where.replace('/', ' ', 1)}: {said}"
            yield make(text, "correct the gate; `rollouts lint FILE` checks a file")
