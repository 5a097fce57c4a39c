"""The Go pickers, where they are built: what docs/picker-conformance.md records of them is still so.

They are not built here, not even in CI: two more Go builds of three to five minutes would double its time.
A cache that has them (`python -m tools.gopickers build`) makes these tests run.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from pathlib import Path

import pytest

from rollouts.kube.http import HttpKubeClient
from rollouts.lab.controlplane import ControlPlane
from rollouts.picker.conformance.cases import Case, load_cases
from rollouts.picker.conformance.report import check_picker
from tools.gopickers.build import PICKERS, GoPicker, built
from tools.gopickers.comparison import PATH, verdicts
from tools.gopickers.serving import MODEL, start_on

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


@pytest.mark.parametrize("picker", PICKERS, ids=lambda picker: picker.name)
async def test_a_go_picker_does_what_is_recorded(
    picker: GoPicker, control_plane: ControlPlane, kube: HttpKubeClient, tmp_path: Path
) -> None:
    if built(picker) is None:
        pytest.skip(f"{picker.name} {picker.version} is not built: `python -m tools.gopickers build`")
    recorded = verdicts(PATH.read_text(encoding="utf-8"))[f"{picker.name} {picker.version}"]
    namespace = f"go-{uuid.uuid4().hex[:8]}"
    async with start_on(kube, control_plane.kubeconfig, [picker], tmp_path, namespace) as (served,):
        found = await _verdicts(served.address, load_cases(), timeout=3.0)
        differs = [case for case in load_cases() if found[case.name] != recorded[case.name]]
        # Three seconds may be too short on a busy machine; what is wrong stays wrong with more of them.
        found |= await _verdicts(served.address, differs, timeout=20.0)

    assert found == recorded


async def _verdicts(address: str, cases: Iterable[Case], *, timeout: float) -> dict[str, bool]:
    results = await check_picker(address, model=MODEL, timeout=timeout, cases=cases)
    return {result.name: result.passed for result in results}
