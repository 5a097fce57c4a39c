"""What a pod's name for an adapter stands for: a name says nothing about the weights behind it.

vLLM's ``GET /v1/models`` lists the base model (``parent`` null) and every loaded adapter (``parent`` is the base),
each with a ``root``: for an adapter the path that it was loaded from. Old versions gave the base model's name as root
of every adapter: they do not say. A pod serves an adapter with a source when it lists the name under that root.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum

from rollouts.analysis.exposition import ExpositionError, parse_exposition
from rollouts.objects.fields import text_at
from rollouts.objects.served import listed_models

__all__ = [
    "AdapterOnPod",
    "Held",
    "Model",
    "Serving",
    "answer_text",
    "has_requests",
    "read_models",
    "same_path",
]

_LORAS = "vllm:lora_requests_info"
_LORA_LABELS = ("running_lora_adapters", "waiting_lora_adapters")
_COUNTS = ("vllm:num_requests_running", "vllm:num_requests_waiting")


@dataclass(frozen=True, slots=True)
class Model:
    """One entry of ``/v1/models``. ``root`` empty: the server does not say; ``parent`` empty: a base model."""

    root: str = ""
    parent: str = ""


class Held(Enum):
    """What a pod has under an adapter's name, compared with the source that is asked about."""

    RIGHT = "right"
    OTHER = "other"
    UNSAID = "unsaid"
    """A source is asked about, and the pod lists the name without a root."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterOnPod:
    """One pod and one adapter. ``listed`` None: the pod has not said yet; ``problem`` says why, if known."""

    pod: str
    listed: bool | None
    proven: bool
    problem: str = ""
    root: str = ""
    """The path behind the name, where it is listed and the pod says it."""
    held: Held = Held.RIGHT
    in_flight: bool = True
    """Whether requests for it may still run there. Only asked for what is to be taken off."""
    differs: bool | None = None
    """Whether it answers the probe otherwise than its base; None: not compared."""


@dataclass(frozen=True, slots=True)
class Serving:
    """One adapter on all Ready pods of a pool."""

    states: tuple[AdapterOnPod, ...]

    def of(self, source: str, others: Iterable[str] = ()) -> Serving:
        """The same pods judged by content: ``source``, or without one anything but what ``others`` name."""
        known = tuple(others)
        return Serving(tuple(replace(state, held=_held(state, source, known)) for state in self.states))

    @property
    def lacking(self) -> tuple[str, ...]:
        """Pods that answered and do not list the name."""
        return tuple(state.pod for state in self.states if state.listed is False)

    @property
    def mismatched(self) -> tuple[AdapterOnPod, ...]:
        """Pods that list the name for something else."""
        return tuple(s for s in self.states if s.listed and s.held is Held.OTHER)

    @property
    def holding(self) -> tuple[AdapterOnPod, ...]:
        """Pods that list the name and confirm the content."""
        return tuple(s for s in self.states if s.listed and s.held is Held.RIGHT)

    @property
    def unproven(self) -> tuple[AdapterOnPod, ...]:
        """Pods that may serve it but have not shown it."""
        may = (s for s in self.states if s.listed is not False and s.held is not Held.OTHER)
        return tuple(s for s in may if not (s.proven and s.held is Held.RIGHT))

    @property
    def proven(self) -> int:
        """Pods that hold it and answered a probe."""
        return sum(state.proven for state in self.holding)

    @property
    def possible(self) -> int:
        """Pods that are not known to lack it."""
        return sum(s.listed is not False and s.held is not Held.OTHER for s in self.states)

    @property
    def loaded(self) -> bool:
        """Whether any pod holds it."""
        return bool(self.holding)


def _held(state: AdapterOnPod, source: str, others: tuple[str, ...]) -> Held:
    if not state.listed:
        return Held.RIGHT
    if not source:
        return Held.OTHER if any(same_path(state.root, other) for other in others) else Held.RIGHT
    if not state.root:
        return Held.UNSAID
    return Held.RIGHT if same_path(state.root, source) else Held.OTHER


def same_path(one: str, other: str) -> bool:
    """Whether two texts name one path, however many slashes they spend. Links and ``..`` are not followed."""
    return _parts(one) == _parts(other)


def _parts(path: str) -> tuple[bool, tuple[str, ...]]:
    return path.startswith("/"), tuple(part for part in path.split("/") if part not in ("", "."))


def read_models(body: str) -> dict[str, Model] | None:
    """Entries of an answer of ``/v1/models`` by name; None when it is not one. Wrong types read as absent."""
    entries = listed_models(body)
    if entries is None:
        return None
    found = {
        entry["id"]: Model(root=text_at(entry, "root"), parent=text_at(entry, "parent")) for entry in entries
    }
    return {name: _plain(name, model, found) for name, model in found.items()}


def _plain(name: str, model: Model, models: Mapping[str, Model]) -> Model:
    """In old versions of vLLM an adapter's root was the base model's name, which says nothing."""
    return replace(model, root="") if model.root != name and model.root in models else model


def has_requests(page: bytes, adapter: str) -> bool:
    """Whether a vLLM pod's metrics show requests for an adapter, running or waiting.

    ``vllm:lora_requests_info`` keeps a series per combination ever seen; its value is a time, and the newest one is
    current. It goes stale when the engine rests, so a pod without any request has none for the adapter. Pods that
    count nothing show nothing. An unreadable page shows requests: better wait than cut. Not seen: a request that has
    produced nothing yet because all LoRA slots are taken; vLLM lists it only from its first token on.
    """
    try:
        sample = parse_exposition(page, (_LORAS, *_COUNTS))
    except ExpositionError:
        return True
    counts = [sample.total(name) for name in _COUNTS]
    if all(count is not None for count in counts) and not any(counts):
        return False
    series = sample.series.get(_LORAS) or []
    newest = max((value for _, value in series), default=0.0)
    current = [labels for labels, value in series if value == newest]
    return any(adapter in labels.get(name, "").split(",") for labels in current for name in _LORA_LABELS)


def answer_text(body: str) -> str:
    """The text of a completion or chat completion; empty where there is none."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    choices = data.get("choices") if isinstance(data, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(first, dict):
        return ""
    return text_at(first, "text") or text_at(first, "message", "content")
