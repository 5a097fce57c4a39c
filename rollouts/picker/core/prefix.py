"""Remembers which pod has seen which beginning of a prompt, so that its KV cache is used again.

The prompt's source bytes are cut into blocks whose hashes are chained and seeded with the target model, as
in the prefix plugin of the Gateway API Inference Extension. Its blocks have 64 bytes each. These have 1 KiB, about
256 tokens, for a shorter common prefix saves a pod little, and grow further on, where one more turn of a
conversation is a smaller part of what is shared: a tenth of the work for prompts of 32 KiB.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["BLOCK", "MAX_PREFIX", "PrefixIndex", "block_hashes"]

BLOCK = 1024
_ENDS = tuple(BLOCK * blocks for blocks in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32))
MAX_PREFIX = _ENDS[-1]
"""Bytes of a prompt that are looked at."""

MAX_ENTRIES = 200_000
"""Hashes kept, oldest out first: about 30 MB, the prefixes of 20,000 long prompts."""
MAX_SLOTS = 4096
"""Pods that ever had a bit; when pods have come and gone this often, the index starts again."""


def block_hashes(model: str, prompt: bytes) -> tuple[int, ...]:
    """Chained hashes of the prompt's whole blocks. Valid in this process only."""
    chained = hash(model)
    found = []
    start = 0
    for end in _ENDS:
        if end > len(prompt):
            break
        chained = hash((chained, prompt[start:end]))
        found.append(chained)
        start = end
    return tuple(found)


class PrefixIndex:
    """Block hash to the set of pods that have it, as a bit mask."""

    __slots__ = ("_masks", "_slots")

    def __init__(self) -> None:
        self._masks: dict[int, int] = {}
        self._slots: dict[str, int] = {}

    def match(self, hashes: tuple[int, ...]) -> Mapping[str, int]:
        """Number of leading blocks that each pod has; pods with none are left out."""
        alive = -1
        found: dict[int, int] = {}
        for count, block in enumerate(hashes):
            mask = self._masks.get(block, 0) & alive
            lost = alive & ~mask if count else 0
            if lost:
                found[lost] = count
            alive = mask
            if not alive:
                break
        if alive > 0:
            found[alive] = len(hashes)
        return {
            name: count
            for name, bit in self._slots.items()
            for mask, count in found.items()
            if mask >> bit & 1
        }

    def add(self, address: str, hashes: tuple[int, ...]) -> None:
        """The pod at ``address`` is about to see a prompt with these blocks."""
        bit = self._slots.get(address)
        if bit is None:
            if len(self._slots) >= MAX_SLOTS:
                self._masks.clear()
                self._slots.clear()
            bit = self._slots[address] = len(self._slots)
        masks, flag = self._masks, 1 << bit
        for block in hashes:
            mask = masks.get(block, 0)
            if not mask & flag:
                masks[block] = mask | flag
        while len(masks) > MAX_ENTRIES:
            del masks[next(iter(masks))]
