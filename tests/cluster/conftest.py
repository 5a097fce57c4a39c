"""A real kube-apiserver for the tests that need one: required in CI, a loud skip elsewhere."""

from __future__ import annotations

import asyncio
import os
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rollouts.kube.client import Resource
from rollouts.kube.http import HttpKubeClient, open_client
from rollouts.lab.controlplane import Choice, ControlPlane, ControlPlaneError
from rollouts.lab.controlplane.build import API_SERVER, CONTROLLERS, build, built_binaries
from tests.kit.httpclients import acting_as
from tests.kit.whole import WholePlane

NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
_IN_CI = os.environ.get("CI") == "true"


def pytest_collection_finish(session: pytest.Session) -> None:
    """In CI, build before the first test, outside of any test's time-out."""
    wanted = any(item.get_closest_marker("cluster") for item in session.items)
    elsewhere = os.environ.get("KUBEBUILDER_ASSETS") or os.environ.get("ROLLOUTS_TEST_KUBECONFIG")
    if _IN_CI and wanted and not elsewhere and not session.config.option.collectonly:
        build()


def _missing() -> str:
    """Why no control plane can be tried at all; empty when one can."""
    if built_binaries() or os.environ.get("KUBEBUILDER_ASSETS") or os.environ.get("ROLLOUTS_TEST_KUBECONFIG"):
        return ""
    return "no kube-apiserver: `make controlplane` builds one (Go, 7 minutes once)"


@contextmanager
def _loop_in_a_thread() -> Iterator[Callable[[Coroutine[Any, Any, None]], None]]:
    """An event loop for the whole session; each test has another one, which may be running."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="control-plane", daemon=True)
    thread.start()
    try:
        yield lambda coroutine: asyncio.run_coroutine_threadsafe(coroutine, loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """One real control plane for the whole session; ROLLOUTS_TEST_KUBECONFIG names another one."""
    if (reason := _missing()) and not _IN_CI:
        pytest.skip(reason)
    given = os.environ.get("ROLLOUTS_TEST_KUBECONFIG")
    plane = ControlPlane(
        tmp_path_factory.mktemp("control-plane"),
        choice=Choice.REAL,
        kubeconfig=Path(given) if given else None,
    )
    with _loop_in_a_thread() as run:
        try:
            run(plane.start())
        except ControlPlaneError as error:
            if _IN_CI:
                raise
            pytest.skip(f"no control plane: {error}")
        try:
            yield plane
        finally:
            run(plane.stop())


@pytest.fixture(scope="session")
def whole_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholePlane]:
    """A second control plane, with controllers, scheduler and nodes; started by the first test that asks for it.

    The other one stays without them: most tests need none, and some need that nobody else acts.
    """
    if not built_binaries((*API_SERVER, *CONTROLLERS)) and not _IN_CI:
        pytest.skip("no kube-controller-manager: `make controlplane` builds one (Go, 2 minutes once)")
    plane = WholePlane(tmp_path_factory.mktemp("whole-plane"))
    with _loop_in_a_thread() as run:
        run(plane.start())
        try:
            yield plane
        finally:
            run(plane.stop())


@pytest.fixture
async def whole(whole_plane: WholePlane) -> AsyncIterator[HttpKubeClient]:
    """The administrator's client of ``whole_plane``."""
    async with await open_client(str(whole_plane.plane.kubeconfig), field_manager="test") as client:
        yield client


@pytest.fixture
async def living(whole: HttpKubeClient) -> str:
    """A namespace of the test's own in ``whole_plane``."""
    name = f"test-{uuid.uuid4().hex[:10]}"
    await whole.create(
        NAMESPACES, None, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    )
    return name


@pytest.fixture
async def kube(control_plane: ControlPlane) -> AsyncIterator[HttpKubeClient]:
    """The administrator's client."""
    async with await open_client(str(control_plane.kubeconfig), field_manager="test") as client:
        yield client


@pytest.fixture
async def namespace(kube: HttpKubeClient) -> str:
    """A namespace of the test's own. It is not deleted: nothing here would finalize it."""
    name = f"test-{uuid.uuid4().hex[:10]}"
    await kube.create(NAMESPACES, None, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    return name


@pytest.fixture
def as_service_account(kube: HttpKubeClient) -> Callable[[str, str], HttpKubeClient]:
    """``as_service_account(namespace, name)``: a client that may do only what RBAC lets that account do."""

    def impersonate(namespace: str, name: str) -> HttpKubeClient:
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
        return acting_as(kube, f"system:serviceaccount:{namespace}:{name}", groups)

    return impersonate
