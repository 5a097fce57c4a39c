"""The pages of the dashboard, of values. Pure; drawings and sections are those of the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rollouts.api.parsing import ParsedRollout, parse_rollout
from rollouts.api.strategy_words import LiveStrategy
from rollouts.cli.explain import explanation
from rollouts.dashboard.looking import ArmPods
from rollouts.engine.commands import CommandAction
from rollouts.engine.rollout_status import Phase
from rollouts.report.markup import Child, Element, el, render
from rollouts.report.page import attempt_sections, document, explained, state
from rollouts.report.reading import NoAttemptError, read_attempt
from rollouts.units import format_weight

__all__ = ["ACTIONS", "SCRIPT", "ShownPart", "fragment", "list_main", "page_of", "rollout_main", "step_text"]

SCRIPT = """\
const main = document.querySelector("main");
const told = document.querySelector("#live");
const source = new EventSource(main.dataset.live);
const clock = () => new Date().toISOString().slice(11, 19);
source.addEventListener("page", event => {
  const open = [...main.querySelectorAll("details[open]")].map(one => one.id);
  const focused = main.contains(document.activeElement) ? document.activeElement.id : "";
  main.innerHTML = JSON.parse(event.data);
  for (const id of open) document.getElementById(id)?.setAttribute("open", "");
  if (focused) document.getElementById(focused)?.focus({preventScroll: true});
  told.textContent = `Live, as of ${clock()} UTC.`;
});
source.addEventListener("error", () => {
  told.textContent = `The connection is lost since ${clock()} UTC; what is shown may be old. Trying again.`;
});
"""
"""Runs in the page: puts what the server sends in place, keeps what is open and what has the focus."""

ACTIONS: Mapping[CommandAction, tuple[str, bool]] = {
    CommandAction.PROMOTE: ("Promote: leave the current pause or gate", False),
    CommandAction.PROMOTE_FULL: ("Promote to the end: skip all remaining steps and gates", True),
    CommandAction.PAUSE: ("Pause the steps", False),
    CommandAction.RESUME: ("Resume", False),
    CommandAction.ABORT: ("Abort: give all traffic to stable", True),
    CommandAction.RETRY: ("Retry: start a new attempt", True),
}
"""What a button says, and whether it asks twice."""


_ELSEWHERE = ("Judged", "Why", "Strategy")
"""What the page tells in sections of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownPart:
    """What a page is made of. ``token`` empty: it has no buttons."""

    now: datetime
    token: str = ""


def page_of(title: str, main: Sequence[Child], *, live: str, forms: bool) -> str:
    """A whole live page. ``live`` is the address of its events."""
    body = [
        el("header", el("nav", el("a", "All Rollouts", href="/")), el("h1", title)),
        el("main", *main, data_live=live),
        el(
            "footer",
            el("p", "Not live: this page needs its script for that.", id="live", role="status"),
            class_="soft",
        ),
    ]
    return document(title, body, script="/live.js", connect=True, forms=forms)


def step_text(parsed: ParsedRollout) -> str:
    """Step of steps, from 1."""
    status = parsed.status
    return (
        f"{min(status.current_step + 1, status.step_count)}/{status.step_count}" if status.step_count else "-"
    )


def list_main(rollouts: Sequence[Mapping[str, Any]]) -> list[Element]:
    """All Rollouts as a table."""
    if not rollouts:
        return [el("p", "There is no Rollout here.")]
    rows = []
    for obj in rollouts:
        parsed = parse_rollout(obj)
        status = parsed.status
        address = f"/rollouts/{parsed.namespace}/{parsed.name}"
        link = el("a", f"{parsed.namespace}/{parsed.name}", href=address, id=address)
        cells: list[Child] = [
            link,
            state(status.phase.value or "New"),
            f"step {step_text(parsed)}",
            f"weight {format_weight(status.weight.applied)}",
            f"stable {status.stable.identity.name if status.stable else '-'}",
            f"canary {status.canary.identity.name if status.canary else '-'}",
            status.message,
        ]
        rows.append(el("tr", [el("td", cell) for cell in cells]))
    head = ("name", "phase", "step", "weight", "stable", "canary", "message")
    columns = el("thead", el("tr", [el("th", word, scope="col") for word in head]))
    return [el("table", columns, el("tbody", rows), class_="stack")]


def rollout_main(
    rollout: Mapping[str, Any],
    runs: list[dict[str, Any]],
    arms: Sequence[ArmPods],
    shown: ShownPart,
    live: LiveStrategy = None,
) -> Iterator[Element]:
    """One Rollout: phase, what comes next and what would move it, buttons, pods, and the attempt as a report has it."""
    parsed = parse_rollout(rollout)
    phase = parsed.status.phase.value or "New"
    yield el("p", state(phase), " ", parsed.status.message)
    if shown.token:
        yield _buttons(parsed, shown.token)
    told = [line for line in explanation(rollout, runs, shown.now, live) if line[0] not in _ELSEWHERE]
    yield el("section", el("h2", "What comes next, and what would move it"), explained(told))
    if arms:
        yield el("section", el("h2", "Pods"), el("div", [_pods(arm) for arm in arms], class_="charts"))
    try:
        yield from attempt_sections(read_attempt(rollout, runs, (), live=live), shown.now)
    except NoAttemptError as error:
        yield el("p", str(error))


def _pods(arm: ArmPods) -> Element:
    ready = sum(pod.ready for pod in arm.pods)
    count = f"{ready} of {len(arm.pods)} Ready" if not arm.problem else arm.problem
    rows = [
        el(
            "tr",
            el("td", pod.name),
            el("td", state("Ready" if pod.ready else "NotReady")),
            el("td", f"{pod.restarts}", class_="n"),
        )
        for pod in arm.pods
    ]
    head = el("thead", el("tr", [el("th", word, scope="col") for word in ("pod", "state", "restarts")]))
    table = el("table", head, el("tbody", rows)) if rows else None
    return el("div", el("h3", f"{arm.role}: {arm.name}"), el("p", count), el("div", table, class_="wide"))


# --- buttons ---------------------------------------------------------------------------------------


def _offered(parsed: ParsedRollout) -> list[CommandAction]:
    """Actions that make sense now; the controller decides, and says why it rejects one."""
    status = parsed.status
    if status.phase is Phase.ABORTED:
        return [CommandAction.RETRY]
    if status.canary is None:
        return []
    if status.phase is Phase.WAITING:
        return [CommandAction.ABORT]
    held = CommandAction.RESUME if status.hold is not None else CommandAction.PAUSE
    return [CommandAction.PROMOTE, held, CommandAction.PROMOTE_FULL, CommandAction.ABORT]


def _buttons(parsed: ParsedRollout, token: str) -> Element:
    parts = []
    for action in _offered(parsed):
        words, twice = ACTIONS[action]
        form = _form(parsed, action, "Yes, do it" if twice else words, token)
        ask = el("details", el("summary", words, id=f"ask-{action.value}"), form, id=f"more-{action.value}")
        parts.append(ask if twice else form)
    told = el("p", "Commands are written with the rights of whoever started this dashboard.", class_="soft")
    return el("section", el("h2", "Commands"), parts or el("p", "None would do anything now."), told)


def _form(parsed: ParsedRollout, action: CommandAction, words: str, token: str) -> Element:
    revision = parsed.status.canary or parsed.status.stable
    hidden = {
        "token": token,
        "namespace": parsed.namespace,
        "name": parsed.name,
        "action": action.value,
        "revision": revision.hash if revision is not None else "",
        "attempt": str(parsed.status.attempt),
        "step": str(parsed.status.current_step),
    }
    fields = [el("input", type="hidden", name=name, value=value) for name, value in hidden.items()]
    button = el("button", words, type="submit", id=f"do-{action.value}")
    return el("form", fields, button, method="post", action="/command")


def fragment(main: Sequence[Child]) -> str:
    """What stands inside ``main``."""
    return "".join(map(render, main))
