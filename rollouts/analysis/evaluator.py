"""Conditions in a process of their own: ``python -m rollouts.analysis.evaluator``, run by ``runtime/sandbox.py``.

One request and one answer a line, JSON: ``{"text": ...}`` asks what is wrong with a condition, with ``"value"`` it is
evaluated (a number, or ``[[value, [[label, value], ...]], ...]``). Answers: ``{"holds": true}``, ``{"fine": true}``,
``{"problem": "..."}``. Compiled conditions are kept (1,024 of them), so that a healthy evaluation costs less than the
parse.
"""

from __future__ import annotations

from typing import Any

from rollouts.analysis.conditions import ConditionError, condition_problem, evaluate
from rollouts.analysis.types import Labelled, Value
from rollouts.runtime.child import serve_requests

__all__ = ["answer", "pack", "unpack"]


def pack(value: Value) -> Any:
    """A result as JSON."""
    if isinstance(value, tuple):
        return [[item.value, [list(pair) for pair in item.labels]] for item in value]
    return value


def unpack(data: Any) -> Value:
    """The opposite of ``pack``."""
    if isinstance(data, list):
        return tuple(
            Labelled(value=float(number), labels=tuple((str(k), str(v)) for k, v in labels))
            for number, labels in data
        )
    return float(data)


def answer(request: Any) -> Any:
    """The answer to one request."""
    text = request["text"]
    if "value" not in request:
        problem = condition_problem(text)
        return {"fine": True} if problem is None else {"problem": problem}
    try:
        return {"holds": evaluate(text, unpack(request["value"]))}
    except ConditionError as error:
        return {"problem": str(error)}


if __name__ == "__main__":
    serve_requests(answer)
