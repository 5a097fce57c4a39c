"""One server with the query API of Prometheus, through ``prometheus-api-client`` on a bounded session.

Bounds: time of the whole answer (at its end the connection is shut down, however slowly the server drips), bytes, no
redirects, no proxies from the environment, no retries inside (the run plan retries), nothing of an answer is quoted in
a message. Every call runs in a thread of the server's own pool, of which one namespace has a quarter at most: a thread
that nobody waits for any longer is its namespace's until it has ended. Large answers are few in the process.
"""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, TypeVar

import requests
from prometheus_api_client import PrometheusConnect
from prometheus_api_client.exceptions import PrometheusApiClientException
from urllib3.util.retry import Retry

from rollouts.runtime.fairness import FairSlots
from rollouts.sources.base import QueryRefused, SourceError, SourceUnavailable
from rollouts.sources.bounded_session import MAX_BYTES, BoundedSession, PrometheusConfig
from rollouts.sources.large_answers import LargeAnswers

__all__ = ["AnswerTooLarge", "PrometheusServer"]

_THREADS = 16
_OF_ONE_NAMESPACE = 4
_LARGE = LargeAnswers(total=4, of_one=1)
"""Of more than ``MAX_BYTES``, over all servers: to read one of 4 MiB takes 50 MB."""

_LONG = 4000
"""Characters of a query from which on it is posted: some proxies take no hundreds of pods by name in a URL."""

_FOR_THAT_MOMENT = {"nocache": "1"}
"""VictoriaMetrics answers for 30 s earlier than now unless it is told not to; others know no such parameter."""

T = TypeVar("T")


class AnswerTooLarge(SourceUnavailable):
    """The answer has more bytes than are read."""


class PrometheusServer:
    """Sends instant queries. ``name`` is the source's, for messages."""

    def __init__(self, name: str, config: PrometheusConfig) -> None:
        self._name = name
        self._config = config
        self._pool = ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix=f"prometheus-{name}")
        self._slots = FairSlots(_THREADS, _OF_ONE_NAMESPACE)

    async def ask(
        self,
        promql: str,
        at: datetime,
        namespace: str,
        read: Callable[[Any], T],
        longest: int = MAX_BYTES,
        sending: Callable[[], None] = lambda: None,
    ) -> T:
        """What ``read`` makes, in a thread, of the ``data.result`` of the answer. Raises SourceError.

        ``sending`` is called when the request has its turn.
        """
        session = BoundedSession(self._config, longest, functools.partial(_LARGE.enter, namespace))

        def told() -> T:
            try:
                return self._read(read, self._ask(session, promql, at, longest))
            finally:
                if session.large:
                    _LARGE.leave(namespace)

        give_back = await self._slots.take(namespace)
        call: asyncio.Future[T]
        try:
            sending()
            call = asyncio.get_running_loop().run_in_executor(self._pool, told)
        except BaseException:
            give_back()
            raise
        call.add_done_callback(_heard)
        call.add_done_callback(lambda _: give_back())
        try:
            async with asyncio.timeout(self._config.timeout):
                return await asyncio.shield(call)
        except TimeoutError:
            raise SourceUnavailable(
                f"source {self._name}: no whole answer within {self._config.timeout:g} s"
            ) from None
        finally:
            if not call.done():
                session.cut()  # or the thread would read on for as long as the server likes

    def _read(self, read: Callable[[Any], T], data: Any) -> T:
        try:
            return read(data)
        except SourceUnavailable as error:
            raise SourceUnavailable(f"source {self._name}: {error}") from None

    def _ask(self, session: BoundedSession, promql: str, at: datetime, longest: int) -> Any:
        method = "POST" if len(promql) > _LONG else "GET"
        with session:
            connect = PrometheusConnect(
                url=self._config.url.rstrip("/"), session=session, retry=Retry(total=0), method=method
            )
            params = {"time": f"{at.timestamp():.3f}", **_FOR_THAT_MOMENT}
            try:
                data = connect.custom_query(promql, params=params)
                if session.partial:
                    raise SourceUnavailable(f"source {self._name}: a part of the answer is missing, it says")
                return data
            except PrometheusApiClientException as error:
                raise self._refusal(error) from None
            except requests.exceptions.ContentDecodingError:
                hint = ": aggregate in the query" if longest == MAX_BYTES else ""
                raise AnswerTooLarge(
                    f"source {self._name}: the answer is larger than {longest} bytes{hint}"
                ) from None
            except requests.exceptions.JSONDecodeError:
                raise SourceUnavailable(f"source {self._name}: the answer is no Prometheus answer") from None
            except requests.exceptions.RequestException as error:
                raise SourceUnavailable(f"source {self._name}: {type(error).__name__}") from None
            except (KeyError, TypeError, ValueError, RecursionError):
                raise SourceUnavailable(f"source {self._name}: the answer is no Prometheus answer") from None
            except OSError as error:
                raise SourceUnavailable(
                    f"source {self._name}: its credentials: {type(error).__name__}"
                ) from None

    def _refusal(self, error: Exception) -> SourceError:
        match = re.match(r"HTTP Status Code (\d{3})", str(error))
        code = match.group(1) if match else "?"
        if code in ("400", "422"):
            return QueryRefused(
                f"source {self._name} refuses the query ({code}): check its PromQL with promtool, "
                "and the server's limits"
            )
        return SourceUnavailable(f"source {self._name}: HTTP {code}")

    async def close(self) -> None:
        """Take no more queries."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _heard(call: asyncio.Future[Any]) -> None:
    """Of a request that nobody waits for any longer nothing is logged: it was cut."""
    if not call.cancelled():
        call.exception()
