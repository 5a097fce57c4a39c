"""Errors of the transport, one tree for every way the API server can say no.

KubeError
+-- RetryableError            worth trying again, with back-off
|   +-- UnansweredError       neither done nor refused, as far as is known; the same request again
|   |   +-- ApiUnavailable    no connection, connection reset, 5xx
|   |   +-- ApiTimeout        no answer within the deadline; the write MAY have happened
|   |   +-- TooManyRequests   429; ``retry_after`` seconds when the server said so
|   +-- Conflict              409 on a write: somebody else wrote first; read again, plan again
+-- RefusedError              the same request will be refused again
    +-- NotFound              404 of an object
    +-- KindNotServed         404 of a whole kind: its CRD is not installed
    +-- AlreadyExists         409 on a create
    +-- Gone                  410: the resourceVersion or continue token is too old; list again
    +-- Invalid               422 or 400: the object breaks its schema or a CEL rule
        +-- OtherObject       a patch for one UID met another object of that name
    +-- Forbidden             401 or 403: RBAC or admission
    +-- NotConfigured         no kubeconfig, or one that cannot be used
"""

from __future__ import annotations

__all__ = [
    "AlreadyExists",
    "ApiTimeout",
    "ApiUnavailable",
    "Conflict",
    "Forbidden",
    "Gone",
    "Invalid",
    "KindNotServed",
    "KubeError",
    "NamespaceTerminating",
    "NotConfigured",
    "NotFound",
    "OtherObject",
    "RefusedError",
    "RetryableError",
    "TooManyRequests",
    "UnansweredError",
]


class KubeError(Exception):
    """Base of all transport errors. ``status`` is the HTTP code, 0 where there was none."""

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class RetryableError(KubeError):
    """May succeed when tried again later."""


class UnansweredError(RetryableError):
    """The server neither did it nor refused it, as far as is known: the very same request may succeed later."""


class ApiUnavailable(UnansweredError):
    """The server could not be reached, dropped the connection or answered 5xx."""


class ApiTimeout(UnansweredError):
    """No answer within the deadline. A write may or may not have been stored."""


class TooManyRequests(UnansweredError):
    """429. ``retry_after`` is in seconds."""

    def __init__(self, message: str, *, retry_after: float = 1.0, status: int = 429) -> None:
        super().__init__(message, status=status)
        self.retry_after = retry_after


class Conflict(RetryableError):
    """The object changed since it was read (resourceVersion, or a ``test`` of a JSON patch)."""


class RefusedError(KubeError):
    """Refused for good: the same request will be refused again."""


class NotFound(RefusedError):
    """The object does not exist."""


class KindNotServed(RefusedError):
    """The API server does not serve this kind: its CRD is missing."""


class AlreadyExists(RefusedError):
    """A create met an object of that name."""


class Gone(RefusedError):
    """The resourceVersion or continue token has expired: list from the beginning."""


class Invalid(RefusedError):
    """Schema, CEL rule or patch refused. The message is the server's."""


class OtherObject(Invalid):
    """A patch names the UID of an object that is gone: another one has its name now."""


class Forbidden(RefusedError):
    """Not allowed by RBAC, admission or authentication."""


class NamespaceTerminating(Forbidden):
    """Nothing is created any more in a namespace that is being deleted; what exists can still be changed."""


class NotConfigured(RefusedError):
    """There is no way to reach an API server: no kubeconfig, or one that cannot be used."""
