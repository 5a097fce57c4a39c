"""Conditions of users, checked and evaluated where they can cost nobody else anything.

``SandboxedConditions`` asks a process under a hard budget. Checking is never waited for: what is not known yet is
``UNCHECKED``, the gate is not started, and the key is named again when it is known. ``InlineConditions`` does the
same work on the spot: for programs that run their user's own files, and for tests in virtual time.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

import structlog

from rollouts.analysis.conditions import (
    ConditionError,
    check_size,
    condition_problem,
    evaluate,
    plain_comparison,
)
from rollouts.analysis.evaluator import pack
from rollouts.analysis.types import Value
from rollouts.runtime.objects import ObjectKey
from rollouts.runtime.sandbox import OverBudget, Sandbox, SandboxError

__all__ = ["UNCHECKED", "Conditions", "InlineConditions", "SandboxedConditions"]

_log = structlog.get_logger(__name__)

UNCHECKED = "the condition is being checked"
"""The problem of a condition about which nothing is known yet."""

_MODULE = "rollouts.analysis.evaluator"
_KNOWN = 20_000
"""Conditions remembered per namespace: a Rollout has 1,024 at most, and an object's size keeps it far below."""
_NAMESPACES = 10_000
_TOO_EXPENSIVE = "{reason}: make it simpler, or aggregate in the query"
_RETRY_SECONDS = 5.0


class Conditions(Protocol):
    """Who knows whether conditions can be used, and whether they hold."""

    def problem(self, key: ObjectKey, text: str) -> str | None:
        """What is wrong with a condition of an object; None when it can be used."""
        ...

    async def holds(self, namespace: str, text: str, value: Value) -> bool:
        """The truth of a condition. Raises ConditionError."""
        ...


class InlineConditions:
    """In this process, at once."""

    def problem(self, key: ObjectKey, text: str) -> str | None:
        """See ``Conditions.problem``."""
        return condition_problem(text)

    async def holds(self, namespace: str, text: str, value: Value) -> bool:
        """See ``Conditions.holds``."""
        return evaluate(text, value)


class SandboxedConditions:
    """In processes under a budget. ``on_change`` is called with each key about whose conditions more is known."""

    def __init__(self, sandbox: Sandbox | None = None) -> None:
        self.on_change: Callable[[ObjectKey], None] = lambda _: None
        self._sandbox = sandbox or Sandbox(_MODULE)
        self._known: OrderedDict[str, OrderedDict[bytes, str | None]] = OrderedDict()
        self._wanted: dict[ObjectKey, dict[bytes, str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._trouble = ""
        """Why nothing can be checked now, when that is so: then it has to be said."""

    def problem(self, key: ObjectKey, text: str) -> str | None:
        """See ``Conditions.problem``; ``UNCHECKED`` as long as it is not known."""
        if plain_comparison(text) is not None:
            return None
        digest, known = _digest(text), self._of(key.namespace)
        if digest in known:
            known.move_to_end(digest)
            return known[digest]
        wanted = self._wanted.get(key)
        if wanted is not None:
            wanted[digest] = text
            return self._trouble or UNCHECKED
        self._wanted[key] = {digest: text}
        task = asyncio.get_running_loop().create_task(self._check(key))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return self._trouble or UNCHECKED

    async def holds(self, namespace: str, text: str, value: Value) -> bool:
        """See ``Conditions.holds``. What was too expensive once is not tried again."""
        plain = plain_comparison(text)
        if plain is not None and isinstance(value, float | int) and math.isfinite(value):
            return plain(value)
        check_size(value)
        known, digest = self._of(namespace), _digest(text)
        if (problem := known.get(digest)) is not None:
            raise ConditionError(problem)
        try:
            answer = await self._sandbox.ask(namespace, {"text": text, "value": pack(value)})
        except SandboxError as error:
            problem = _words(error)
            if isinstance(error, OverBudget):
                self._remember(namespace, digest, problem)
            raise ConditionError(f"{text!r:.80}: {problem}") from None
        if "problem" in answer:
            raise ConditionError(str(answer["problem"]))
        return bool(answer["holds"])

    async def settled(self, namespace: str, text: str) -> str | None:
        """What is wrong with a condition, waited for: for commands, which have nothing else to do."""
        if plain_comparison(text) is not None:
            return None
        known, digest = self._of(namespace), _digest(text)
        try:
            return known[digest] if digest in known else await self._asked(namespace, text)
        except SandboxError as error:
            return _words(error)

    async def close(self) -> None:
        """End what is running."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._sandbox.close()

    async def _check(self, key: ObjectKey) -> None:
        """Look at what the object asks about until nothing is left, then name it once."""
        wanted = self._wanted[key]
        try:
            while wanted:
                digest, text = next(iter(wanted.items()))
                try:
                    await self._asked(key.namespace, text)
                except SandboxError as error:
                    _log.error("conditions_not_checked", reason=str(error), namespace=key.namespace)
                    self._trouble = _words(error)
                    self.on_change(key)
                    await asyncio.sleep(_RETRY_SECONDS)
                    continue
                self._trouble = ""
                del wanted[digest]
        finally:
            del self._wanted[key]
        self.on_change(key)

    async def _asked(self, namespace: str, text: str) -> str | None:
        """What is wrong with a condition, which is remembered. Raises SandboxError where nothing can be said."""
        try:
            answer: Any = await self._sandbox.ask(namespace, {"text": text})
            problem: str | None = answer.get("problem")
        except OverBudget as error:
            problem = _words(error)
        self._remember(namespace, _digest(text), problem)
        return problem

    def _of(self, namespace: str) -> OrderedDict[bytes, str | None]:
        known = self._known.setdefault(namespace, OrderedDict())
        self._known.move_to_end(namespace)
        if len(self._known) > _NAMESPACES:
            self._known.popitem(last=False)
        return known

    def _remember(self, namespace: str, digest: bytes, problem: str | None) -> None:
        known = self._of(namespace)
        known[digest] = problem
        if len(known) > _KNOWN:
            known.popitem(last=False)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _words(error: SandboxError) -> str:
    if isinstance(error, OverBudget):
        return _TOO_EXPENSIVE.format(reason=error)
    return f"cannot be evaluated now: {error}"
