"""What pods that are warmed up are asked: in which form, and prompts as long as those of users, where nobody wrote some
down.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from random import Random
from typing import Any, NamedTuple

from rollouts.analysis.exposition import ScrapedHistogram, ScrapedPage
from rollouts.analysis.offers import POD_OFFER
from rollouts.analysis.window_statistics import quantile

__all__ = ["ANSWER_TOKENS", "FORMS", "LENGTH_NAMES", "Form", "lengths_of", "made_up"]

ANSWER_TOKENS = 16
"""Of each answer: decoding is warm after a few, and users wait for the pod."""


class Form(NamedTuple):
    """A path of the OpenAI API (``/classify``, ``/score``: of vLLM) with short answers, and what it is sent."""

    path: str
    body: Callable[[str], dict[str, Any]]


def _generated(**asked: Any) -> dict[str, Any]:
    return {"max_tokens": ANSWER_TOKENS, "temperature": 0, **asked}


FORMS = (
    Form("/v1/completions", lambda prompt: _generated(prompt=prompt)),
    Form("/v1/chat/completions", lambda prompt: _generated(messages=[{"role": "user", "content": prompt}])),
    Form("/v1/embeddings", lambda prompt: {"input": prompt}),
    Form("/classify", lambda prompt: {"input": prompt}),
    Form("/score", lambda prompt: {"text_1": "what is it", "text_2": prompt}),
)
"""In the order in which a server is asked until it has one."""

LENGTH_NAMES = frozenset(selector.name for group in POD_OFFER.groups("prompt_tokens") for selector in group)

_QUANTILES = (0.5, 0.1, 0.9, 0.25, 0.75)
_UNKNOWN = (256, 16, 1024, 64)
"""Tokens where nobody says how long users' prompts are."""
_LONGEST = 8192
"""Tokens: the kernels of longer ones are not others, and twenty of them would take minutes."""
_PER_TOKEN = 0.75
"""Words of a token: fewer tokens than were meant fit into a context, more might not."""
_WORDS = [
    *(
        "the",
        "of",
        "and",
        "to",
        "in",
        "is",
        "that",
        "it",
        "was",
        "for",
        "on",
        "are",
        "as",
        "with",
        "his",
        "they",
    ),
    *(
        "at",
        "be",
        "this",
        "from",
        "have",
        "or",
        "by",
        "one",
        "had",
        "not",
        "but",
        "what",
        "all",
        "were",
        "when",
    ),
]


def lengths_of(pages: Iterable[ScrapedPage]) -> tuple[int, ...]:
    """Tokens of users' prompts: quantiles over all pages, the median first."""
    merged = ScrapedHistogram()
    for page in pages:
        found = next((page.histograms[name] for name in LENGTH_NAMES if name in page.histograms), None)
        for bound, count in found.buckets.items() if found is not None else ():
            merged.buckets[bound] = merged.buckets.get(bound, 0.0) + count
    found_lengths = [quantile(q, merged) for q in _QUANTILES]
    known = [max(1, min(round(length), _LONGEST)) for length in found_lengths if math.isfinite(length)]
    return tuple(known) or _UNKNOWN


def made_up(tokens: int, number: int, seed: str) -> str:
    """A prompt of about so many tokens, another one for each ``number`` and ``seed``: no cache has it."""
    return " ".join(Random(f"{seed} {number}").choices(_WORDS, k=max(1, int(tokens * _PER_TOKEN))))
