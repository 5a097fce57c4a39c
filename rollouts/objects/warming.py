"""The annotations of pods that are warmed up: pickers spare them like those that are about to go.

The mark names the Rollout, and goes by the patch that says that the pod is warm: a crash before that leaves it to
whoever comes next, and a pod that was warmed stays so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rollouts.objects.fields import map_of, metadata_of, text_of
from rollouts.objects.pods import DRAINING_ANNOTATION, WARMED_ANNOTATION, restarts_of

__all__ = ["PROMPTS_ANNOTATION", "begins", "ends", "is_warm", "read_prompts", "stops"]

PROMPTS_ANNOTATION = "inferencerollouts.dev/prompts"
"""``"true"`` on a ConfigMap: its owner lets Rollouts send its lines to the pods that they warm up."""

_RESTARTS = re.compile(r" after (?P<restarts>[0-9]{1,9}) restarts\Z", re.ASCII)

_MOST_PROMPTS = 200
_MOST_CHARACTERS = 32_768
"""Of one prompt: a body of that size is read by every server."""
_MOST_BYTES = 256 * 1024
"""Of all prompts in UTF-8: each of hundreds of pods that are warmed up at a time has its own."""


def begins(rollout: str) -> dict[str, str | None]:
    """Annotations of a pod that is to be warmed up."""
    return {DRAINING_ANNOTATION: f"Rollout {rollout} warms it up"}


def ends(at: str, restarts: int = 0) -> dict[str, str | None]:
    """Of one that is warm, after so many restarts of its containers: it gets requests."""
    return {
        DRAINING_ANNOTATION: None,
        WARMED_ANNOTATION: f"{at} after {restarts} restarts" if restarts else at,
    }


def stops() -> dict[str, str | None]:
    """Of one that nobody warms up any more."""
    return {DRAINING_ANNOTATION: None}


def is_warm(pod: Mapping[str, Any]) -> bool:
    """Whether it was warmed up, and no container has started anew since."""
    said = text_of(map_of(metadata_of(pod).get("annotations")).get(WARMED_ANNOTATION))
    found = _RESTARTS.search(said)
    return bool(said) and restarts_of(pod) <= (int(found["restarts"]) if found else 0)


def read_prompts(config_map: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """The prompts of a ConfigMap, one a line. Raises ValueError, in words, where there are none to be used."""
    consent = map_of(metadata_of(config_map).get("annotations")).get(PROMPTS_ANNOTATION)
    if consent != "true":
        raise ValueError(f'it lacks the annotation {PROMPTS_ANNOTATION}: "true"')
    text = text_of(map_of(config_map.get("data")).get(key))
    prompts = tuple(line for line in (line.strip() for line in text.splitlines()) if line)
    if not prompts:
        raise ValueError(f"it has no line under the key {key}")
    if len(prompts) > _MOST_PROMPTS:
        raise ValueError(f"its key {key} has {len(prompts)} lines, and {_MOST_PROMPTS} are allowed")
    longest = max(map(len, prompts))
    if longest > _MOST_CHARACTERS:
        raise ValueError(
            f"a line of its key {key} has {longest} characters, and {_MOST_CHARACTERS} are allowed"
        )
    length = sum(len(prompt.encode("utf-8", "replace")) for prompt in prompts)
    if length > _MOST_BYTES:
        raise ValueError(f"its key {key} has {length} bytes of prompts, and {_MOST_BYTES} are allowed")
    return prompts
