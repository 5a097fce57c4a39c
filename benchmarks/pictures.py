"""The pictures of README and docs: ``python -m benchmarks.pictures`` draws them anew into ``docs/pictures``.

Attempts are run in virtual time, drawings are those of ``rollouts report``, screenshots are Chromium's. False aborts
are read from the table in ``benchmarks/statistics/README.md``, which ``python -m benchmarks.statistics --full`` prints.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI

from rollouts.cli.render import rollout_view
from rollouts.report.charts import Bound, Series, evidence_chart
from rollouts.report.markup import Element, el, render
from rollouts.report.page import report_page
from rollouts.report.reading import AttemptReport, read_attempt
from rollouts.report.style import DRAWING
from tests.kit.attempts import bad_attempt, good_attempt, objects_of, running_attempt
from tests.kit.browser import open_browser
from tests.kit.dashboards import copy_of, dashboard_over
from tests.kit.faults.cluster import Cluster
from tests.kit.faults.simulation import Simulation

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "pictures"
STUDY = ROOT / "benchmarks" / "statistics" / "README.md"
_ROW = re.compile(r"^\| (?P<name>[^|]+) \| (?P<share>[\d.]+)% \((?P<low>[\d.]+)-(?P<high>[\d.]+)\) \|")
_TERMINAL = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"><style>
.{unique_id}-matrix{{font:20px ui-monospace,monospace}}{styles}</style>
<rect width="{width}" height="{height}" rx="8" fill="#1b1f24"/><g transform="translate(8,14)">
<g class="{unique_id}-matrix">{backgrounds}{matrix}</g></g></svg>
"""
"""Of rich's own it has no window, and no fonts from elsewhere."""


def alone(drawing: Element) -> str:
    """A drawing as a file of its own: with its colours, light or dark as the reader's system is."""
    ground = el("rect", width="100%", height="100%", class_="ground")
    style = el("style", DRAWING + ".ground{fill:var(--paper)}")
    return render(Element(drawing.name, drawing.attributes, (style, ground, *drawing.children))) + "\n"


def watch() -> str:
    """What ``rollouts watch`` shows of a canary in a pause."""
    rollout, runs, _ = objects_of(running_attempt())
    screen = Console(record=True, width=110, file=io.StringIO(), force_terminal=True)
    screen.print(rollout_view(rollout, runs))
    return screen.export_svg(theme=MONOKAI, code_format=_TERMINAL, unique_id="watch", font_aspect_ratio=0.61)


def evidence(attempt: AttemptReport, title: str) -> str:
    """Evidence of harm of the whole, and of ttft being within tolerance, over time with both bounds."""
    start = float(attempt.points[0].at)
    assert attempt.abort_at is not None
    index = next(one.index for one in attempt.compared if one.result.name == "ttft")
    proof = [(p.at - start, one.proof if (one := p.metrics[index]) else None) for p in attempt.points]
    lines = [
        Series(label="proof", style="proof", points=proof),
        Series(
            label="harm",
            style="harm",
            points=[(point.at - start, point.harm) for point in attempt.points],
            dots=[point.at - start for point in attempt.points if point.decision],
        ),
    ]
    same = attempt.pass_at == attempt.abort_at
    bounds = [
        Bound(
            label=f"abort{' and pass' if same else ''} at {attempt.abort_at:g}",
            style="abort",
            value=attempt.abort_at,
        )
    ]
    if attempt.pass_at is not None and not same:
        bounds.append(Bound(label=f"pass at {attempt.pass_at:g}", style="pass", value=attempt.pass_at))
    drawing = evidence_chart(title, lines, bounds, start, float(attempt.points[-1].at))
    names = (("harm", 190, "harm"), ("proof", 262, "ttft tolerable"))
    keys = [
        one
        for style, left, words in names
        for one in (
            el("path", class_=f"line {style}", d=f"M{left - 20} 10H{left - 4}"),
            el("text", words, class_="tick", x=left, y=14),
        )
    ]
    return alone(Element(drawing.name, drawing.attributes, (*drawing.children, *keys)))


# --- false aborts ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Healthy:
    """A scenario of the study: share of runs aborted, with exact 95 % bounds, in percent."""

    name: str
    share: float
    low: float
    high: float


def recorded() -> Iterator[Healthy]:
    """The healthy scenarios in the study's table."""
    table = STUDY.read_text(encoding="utf-8").partition("| faulty")[0]
    for line in table.splitlines():
        if found := _ROW.match(line):
            yield Healthy(found["name"].strip(), *(float(found[name]) for name in ("share", "low", "high")))


def false_aborts() -> str:
    """Shares with their bounds, beside the bound that was asked for."""
    rows, top, line, left, right = list(recorded()), 26, 15, 150, 345
    height = top + line * len(rows) + 34

    def x(percent: float) -> float:
        return left + percent / 7.0 * (right - left)

    parts = [
        el("title", "False aborts of a healthy canary in each scenario"),
        el("text", "scenario", class_="unit", x=4, y=14),
    ]
    floor = top + line * len(rows)
    for tick in range(8):
        parts.append(el("line", class_="grid", x1=x(tick), x2=x(tick), y1=top - 4, y2=floor))
        parts.append(el("text", f"{tick}", class_="tick", x=x(tick), y=floor + 14, text_anchor="middle"))
    parts.append(el("line", class_="bound abort", x1=x(5), x2=x(5), y1=top - 8, y2=floor))
    parts.append(el("text", "asked for: 5 %", class_="label abort", x=x(5), y=top - 12, text_anchor="middle"))
    for number, row in enumerate(rows):
        y = top + line * number + 8.0
        parts.append(el("text", row.name, class_="tick", x=4, y=y, dominant_baseline="middle"))
        parts.append(el("line", class_="whisker", x1=x(row.low), x2=x(row.high), y1=y, y2=y))
        parts.append(el("circle", class_="dot effect", cx=x(row.share), cy=y, r=3))
    words = "% of 400 healthy runs aborted, with exact 95 % bounds"
    parts.append(el("text", words, class_="tick", x=180, y=floor + 29, text_anchor="middle"))
    return alone(
        el("svg", *parts, viewBox=f"0 0 360 {height}", xmlns="http://www.w3.org/2000/svg", role="img")
    )


# --- screenshots -----------------------------------------------------------------------------------


def page_file(folder: Path, simulation: Simulation) -> str:
    """The report of an attempt as it was at its end; its address."""
    found = read_attempt(*objects_of(simulation))
    path = folder / "report.html"
    at = datetime.fromtimestamp(found.points[-1].at, UTC) + timedelta(seconds=20)
    path.write_text(report_page(found, at), encoding="utf-8")
    return path.as_uri()


async def screenshots(folder: Path, url: str, cluster: Cluster) -> None:
    """A report in light and, on a phone, dark; the dashboard. The upper part of each, which is what docs show."""
    async with open_browser() as browser:
        for name, width, height, dark in (("report", 1000, 1150, False), ("report-phone", 360, 760, True)):
            page = await browser.page(width=width, height=height, dark=dark)
            await page.goto(url)
            (folder / f"{name}.png").write_bytes(await page.screenshot(whole=False))
        async with dashboard_over(cluster, allow_commands=True) as address:
            page = await browser.page(width=1000, height=1150, script=False)
            await page.goto(f"{address}/rollouts/default/mymodel")
            (folder / "dashboard.png").write_bytes(await page.screenshot(whole=False))
            await page.goto("about:blank")


def main() -> None:
    """Draw all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    good, bad = (read_attempt(*objects_of(attempt())) for attempt in (good_attempt, bad_attempt))
    drawn = {
        "watch.svg": watch(),
        "evidence-good.svg": evidence(good, "Evidence over time of a canary that was promoted"),
        "evidence-bad.svg": evidence(bad, "Evidence over time of a canary that became slower"),
        "false-aborts.svg": false_aborts(),
    }
    for name, text in drawn.items():
        (folder / name).write_text(text, encoding="utf-8")
    report = page_file(folder, bad_attempt())
    asyncio.run(screenshots(folder, report, copy_of(running_attempt())))
    (folder / "report.html").unlink()
    print(f"{len(drawn)} drawings and 3 screenshots in {folder}")


if __name__ == "__main__":
    main()
