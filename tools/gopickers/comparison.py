"""The conformance kit on ours and on the Go pickers, as one Markdown table."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

from rollouts.picker.conformance.report import CaseResult, check_picker
from rollouts.picker.core.objects import PoolName
from rollouts.picker.main import Picker, PickerConfig
from tools.gopickers.build import PICKERS, GoPicker, built
from tools.gopickers.serving import MODEL, serve_beside

__all__ = ["OBJECTS", "PATH", "check_ours", "compare", "render", "verdicts"]

PATH = Path(__file__).resolve().parents[2] / "docs" / "picker-conformance.md"
OBJECTS = Path(__file__).resolve().parents[2] / "benchmarks" / "picker" / "objects.yaml"
_ROLLOUT = {
    "apiVersion": "inferencerollouts.dev/v1alpha1",
    "kind": "Rollout",
    "metadata": {"name": MODEL, "namespace": "default"},
    "spec": {
        "target": {"adapter": {"name": "travel-helper-v2"}},
        "traffic": {"inferenceModel": {"name": "loramodel", "modelName": MODEL}},
        "strategy": {"canary": {"analysis": {"preset": "default"}}},
    },
    "status": {"phase": "Progressing", "canary": {"adapter": {"name": "travel-helper-v2"}}},
}
_HEAD = """# What endpoint pickers do right

Written by `python -m tools.gopickers check --write`: the cases of `rollouts picker-check` on the bundled picker,
with a response that is measured, and on the two pickers of the Gateway API Inference Extension, built from
their modules and run on an API server with one pool, four pods and a 90/10 rewrite. Each case breaks one rule at
most; `picker-check` prints the reason and the source of each.

"""


async def check_ours(directory: Path) -> list[CaseResult]:
    """The kit on our picker, in this process, with every response measured: nothing is left early."""
    objects = directory / "objects.yaml"
    objects.write_text(f"{OBJECTS.read_text(encoding='utf-8')}---\n{yaml.safe_dump(_ROLLOUT)}", "utf-8")
    config = PickerConfig(
        pools=(PoolName("default", "mymodel-pool-v1"),),
        objects=objects,
        grpc_address="127.0.0.1:0",
        metrics_address="127.0.0.1:0",
        secure_serving=False,
        scrape=False,
        drain_grace=0.0,
    )
    picker = Picker(config)
    try:
        await picker.start()
        await picker.settled()
        return await check_picker(f"127.0.0.1:{picker.server.port}", model=MODEL)
    finally:
        await picker.stop()


def verdicts(page: str) -> dict[str, dict[str, bool]]:
    """Picker to case to whether it is right, read back from such a page."""
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    names = rows[0][1:]
    return {
        name: {row[0]: row[column] == "ok" for row in rows[1:-1]}
        for column, name in enumerate(names, start=1)
    }


async def compare(pickers: Iterable[GoPicker] = PICKERS) -> str:
    """The Markdown page about ours and those of ``pickers`` that are built.

    Raises GoPickerError, ProcessStartError and ControlPlaneError when one cannot be run.
    """
    there = [picker for picker in pickers if built(picker)]
    results: dict[str, list[CaseResult]] = {}
    with tempfile.TemporaryDirectory(prefix="gopickers-") as folder:
        results["ours"] = await check_ours(Path(folder))
        if there:
            async with serve_beside(there, Path(folder)) as served:
                for one in served:
                    name = f"{one.picker.name} {one.picker.version}"
                    results[name] = await check_picker(one.address, model=MODEL, timeout=3.0)
    return render(results)


def render(results: Mapping[str, list[CaseResult]]) -> str:
    """One row per case and one column per picker, then what went wrong."""
    columns = list(results)
    lines = ["| case | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for row in zip(*results.values(), strict=True):
        marks = ("ok" if result.passed else "**wrong**" for result in row)
        lines.append(f"| {row[0].name} | " + " | ".join(marks) + " |")
    totals = (f"{sum(result.passed for result in found)} of {len(found)}" for found in results.values())
    lines.append("| right | " + " | ".join(totals) + " |")
    text = _HEAD + "\n".join(lines) + "\n"
    for name, found in results.items():
        wrong = [result for result in found if not result.passed]
        if wrong:
            notes = [picker.note for picker in PICKERS if name == f"{picker.name} {picker.version}"]
            text += "\n".join(["", f"## What {name} does instead", "", *notes, "", ""])
            text += "".join(f"- {result.name}: `{result.problem.replace('`', '´')}`\n" for result in wrong)
    return text
