"""The client every part of the controller talks to: seven methods over raw dicts.

Raw dicts and no typed models, because a strict model raises on a field it does not know *inside the
cache path* and takes the watch down with it (reference/reliability-and-style 4.2).
Implementations: ``rollouts.kube.http.HttpKubeClient`` (a real API server) and the in-process memory
API of the lab and the tests.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, NotRequired, Protocol, TypedDict, Unpack

from rollouts.objects.resource import Resource

__all__ = [
    "CreateOptions",
    "DeleteOptions",
    "KubeClient",
    "ListOptions",
    "ListPage",
    "PatchKind",
    "PatchOptions",
    "Propagation",
    "Resource",
    "WatchEvent",
    "WatchOptions",
    "WatchType",
]

Object = dict[str, Any]


class PatchKind(Enum):
    """Content types of PATCH. The value is sent as the header, always explicitly."""

    JSON = "application/json-patch+json"
    MERGE = "application/merge-patch+json"
    APPLY = "application/apply-patch+yaml"


class Propagation(Enum):
    """What a deletion does with the objects that the deleted one owns; ``kubectl delete --cascade``."""

    FOREGROUND = "Foreground"
    BACKGROUND = "Background"
    ORPHAN = "Orphan"


class WatchType(Enum):
    """Types of watch events. ERROR events arrive as exceptions, never as events."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    BOOKMARK = "BOOKMARK"


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One line of a watch. A bookmark carries only kind and metadata.resourceVersion."""

    type: WatchType
    object: Object


@dataclass(frozen=True, slots=True)
class ListPage:
    """One page of a list. ``continue_token`` is empty on the last page."""

    items: list[Object]
    resource_version: str
    continue_token: str = ""


class ListOptions(TypedDict, total=False):
    """Of one page: 500 objects at most (``limit``), from the first on, all labels and fields, unless said."""

    limit: int
    continue_token: str
    label_selector: str
    field_selector: str


class WatchOptions(TypedDict):
    """Of a watch: all labels and fields, unless said; ``resource_version`` is where it goes on."""

    resource_version: str
    timeout_seconds: int
    label_selector: NotRequired[str]
    field_selector: NotRequired[str]


class CreateOptions(TypedDict, total=False):
    """Of a creation. ``strict``: fields that the kind does not have are refused, not dropped."""

    dry_run: bool
    strict: bool


class PatchOptions(TypedDict):
    """Of a patch; ``force`` goes with APPLY only."""

    kind: PatchKind
    subresource: NotRequired[str]
    force: NotRequired[bool]
    dry_run: NotRequired[bool]


class DeleteOptions(TypedDict, total=False):
    """Preconditions: what is not said is not asked."""

    uid: str
    resource_version: str


class KubeClient(Protocol):
    """Transport to an API server.

    Every method raises only ``rollouts.kube.errors.KubeError`` (and ``asyncio.CancelledError``).
    ``deadline`` is the total time allowed for the request, in seconds.
    """

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Object:
        """Read one object. Raises NotFound."""
        ...

    async def list_page(
        self, resource: Resource, namespace: str | None, **options: Unpack[ListOptions]
    ) -> ListPage:
        """Read one page, all namespaces when ``namespace`` is None. Raises Gone, KindNotServed."""
        ...

    def watch(
        self, resource: Resource, namespace: str | None, **options: Unpack[WatchOptions]
    ) -> AsyncIterator[WatchEvent]:
        """Stream changes after ``resource_version``, bookmarks included, until the server ends it.

        Raises Gone for a 410, be it the HTTP status or an ERROR event.
        """
        ...

    async def create(
        self,
        resource: Resource,
        namespace: str | None,
        obj: Mapping[str, Any],
        **options: Unpack[CreateOptions],
    ) -> Object:
        """Create; answers the stored object. Raises AlreadyExists, Invalid, Forbidden."""
        ...

    async def patch(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        patch: Any,
        **options: Unpack[PatchOptions],
    ) -> Object:
        """Patch one object (``force`` only with APPLY); answers the stored object.

        A ``metadata.resourceVersion`` inside a MERGE or APPLY body, or a JSON ``test`` on it, is a
        precondition: Conflict when it does not hold. So is a ``metadata.uid`` in a MERGE body: OtherObject.
        """
        ...

    async def delete(
        self, resource: Resource, namespace: str | None, name: str, **options: Unpack[DeleteOptions]
    ) -> None:
        """Delete with optional preconditions. Raises NotFound, Conflict."""
        ...

    async def discover(self) -> tuple[Resource, ...]:
        """All resources that the server serves, every group and version (``/apis`` discovery)."""
        ...
