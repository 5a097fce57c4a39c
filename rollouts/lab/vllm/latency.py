"""How long a simulated request takes: a seeded model, so that two runs draw the same delays."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

__all__ = ["LatencyModel", "LatencyProfile"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyProfile:
    """Medians in seconds at an idle server; ``sigma`` is of the logarithm.

    Defaults are a small model at about a tenth of its real times, so that a demo takes minutes.
    """

    first_token: float = 0.012
    first_token_sigma: float = 0.25
    per_prompt_token: float = 0.000005
    per_token: float = 0.0015
    per_token_sigma: float = 0.1
    full_batch_slowdown: float = 0.5
    """Growth of both when the batch is full."""
    output_tokens: float = 24.0
    """Median of the answer's natural length, after which the model stops by itself."""
    output_tokens_sigma: float = 0.6
    cold_requests: int = 0
    """The first ones of a process: each captures graphs for ``cold`` seconds before its first token."""
    cold: float = 0.0


class LatencyModel:
    """Draws from a profile. ``speed`` divides all times."""

    def __init__(self, profile: LatencyProfile, *, seed: int, speed: float = 1.0) -> None:
        self._profile = profile
        self._random = random.Random(seed)
        self._speed = speed
        self._cold_left = profile.cold_requests

    def cold_start(self) -> float:
        """Seconds that the next request waits longer than others for its first token; those after it wait for less."""
        if not self._cold_left:
            return 0.0
        self._cold_left -= 1
        return self._profile.cold / self._speed

    def first_token(self, prompt_tokens: int, load: float) -> float:
        """Seconds of prefill. ``load`` is the used part of the batch, 0 to 1."""
        profile = self._profile
        base = profile.first_token * math.exp(self._random.gauss(0.0, profile.first_token_sigma))
        return (base + profile.per_prompt_token * prompt_tokens) * self._slowdown(load)

    def per_token(self, load: float) -> float:
        """Seconds between two tokens, the same for the whole of one answer."""
        profile = self._profile
        return (
            profile.per_token
            * math.exp(self._random.gauss(0.0, profile.per_token_sigma))
            * self._slowdown(load)
        )

    def output_tokens(self) -> int:
        """Natural length of an answer, at least one token."""
        profile = self._profile
        return max(
            1, round(profile.output_tokens * math.exp(self._random.gauss(0.0, profile.output_tokens_sigma)))
        )

    def happens(self, share: float) -> bool:
        """Whether an event of this probability happens now."""
        return share > 0.0 and self._random.random() < share

    def _slowdown(self, load: float) -> float:
        return (1.0 + self._profile.full_batch_slowdown * load) / self._speed
