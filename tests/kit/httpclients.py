"""Clients of the API server as tests need them: somebody else's, and impatient ones."""

from __future__ import annotations

from rollouts.kube.connection import Connection
from rollouts.kube.http import HttpKubeClient, Impersonation

__all__ = ["acting_as", "with_deadline"]


def with_deadline(client: HttpKubeClient, seconds: float) -> HttpKubeClient:
    """The same client with another deadline, on the same connections."""
    return _on(client._connection.changed(deadline=seconds))


def acting_as(client: HttpKubeClient, user: str, groups: tuple[str, ...] = ()) -> HttpKubeClient:
    """The same client impersonating ``user``, on the same connections."""
    return _on(client._connection.changed(impersonate=Impersonation(user=user, groups=groups)))


def _on(connection: Connection) -> HttpKubeClient:
    return HttpKubeClient(connection.credentials, connection=connection)
