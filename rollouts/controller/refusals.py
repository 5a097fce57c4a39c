"""Writes that the API server refuses, or does not answer: which of them a person is to read of, and when.

It goes for whatever a plan waits for: traffic objects, runs and Jobs, the Rollout's finalizer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable

from rollouts.engine.reasons import Reason
from rollouts.kube.errors import Conflict, KubeError, RetryableError

__all__ = ["TryAgain", "UnansweredWrites", "WriteRefused", "by_policy", "is_refusal"]

_POLICIES = ("ValidatingAdmissionPolicy", "admission webhook")
"""What refuses a sound object for now, with whatever code: no fault of the spec."""

_SAID_AFTER = 10.0
"""Seconds of tries without an answer until that is said: a webhook that hangs, a proxy that sheds requests."""
_IN_A_ROW = 60.0
"""Seconds between two tries of one row: the longest back-off. What was stored all the same is not tried again."""


class WriteRefused(Exception):
    """An object cannot be brought to what the plan asks; the message has the server's words.

    ``by_spec``: it is the Rollout's spec that a person has to change. Else the same write may succeed later.
    """

    def __init__(self, reason: Reason, message: str, *, by_spec: bool = True) -> None:
        super().__init__(message)
        self.reason = reason
        self.by_spec = by_spec


class TryAgain(Conflict):
    """Nobody else wrote: what the plan needs is not there yet, and another one looks again."""


class UnansweredWrites:
    """Writes that the API server neither stores nor refuses: what is tried again and again is said in the end."""

    def __init__(self) -> None:
        self._rows: dict[Hashable, tuple[float, float]] = {}
        """When the first one of a row was tried, and the last."""

    def begin(self, what: Hashable) -> None:
        """A try: the first one in a row counts."""
        now = asyncio.get_running_loop().time()
        over = [one for one, (_, last) in self._rows.items() if now - last > _IN_A_ROW]
        for one in over:
            del self._rows[one]
        first, _ = self._rows.get(what, (now, now))
        self._rows[what] = (first, now)

    def forget(self, what: Hashable) -> None:
        """It was answered."""
        self._rows.pop(what, None)

    def worth_saying(self, error: KubeError, what: Hashable) -> bool:
        """Whether people are to read of an error. False: another try may be all that it takes."""
        if is_refusal(error):
            self.forget(what)
            return True
        first, _ = self._rows[what]
        return asyncio.get_running_loop().time() - first >= _SAID_AFTER


def is_refusal(error: KubeError) -> bool:
    """Whether the API server refused, which is said at once, and did not just leave the write unanswered.

    A 500 counts: its words are the only cause that anybody gets to see, and it is retried all the same.
    """
    return not isinstance(error, RetryableError) or error.status == 500


def by_policy(error: KubeError) -> bool:
    """Whether an admission policy or a webhook refused."""
    return any(text in str(error) for text in _POLICIES)
