"""What was learned of other people's gateways, as data: one file per gateway in ``gateways``.

Whoever adds a gateway adds a file; ``doctor``, ``lint --gateway`` and the pages in ``docs/peers`` read them. What is
not known is left empty, or ``unknown``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from importlib import resources
from typing import Any

import yaml

__all__ = ["GatewayPeer", "Holds", "PickerNeeds", "PoolWeighing", "gateway_peers", "peer_of", "version_in"]


class Holds(Enum):
    """Whether weights between two pools hold."""

    WORKS = "works"
    CAUTION = "caution"
    """Under a condition, or with a danger."""
    FAILS = "fails"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolWeighing:
    """What becomes of a rule with two weighted InferencePools, in the versions ``below`` one, ``beside`` an image."""

    holds: Holds
    says: str
    fix: str = ""
    below: str = ""
    beside: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PickerNeeds:
    """What our pickers need there beyond what they do by default; the names are the chart's values of a picker."""

    keep_streams: bool = False
    """Responses seen to their end, measured or not."""
    destination_rule: bool = False
    """An object that makes the gateway take a self-signed certificate. Plaintext needs none."""

    @property
    def values(self) -> dict[str, bool]:
        """By the chart's names, as the data files write them."""
        found = {"keepStreams": self.keep_streams, "destinationRule": self.destination_rule}
        return {name: needed for name, needed in found.items() if needed}


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayPeer:
    """A gateway, by the controllerNames of its GatewayClasses. The first of ``pools`` that may hold, holds."""

    key: str
    name: str
    controllers: tuple[str, ...]
    image: str
    """How the image of its controller ends, without the tag; empty where it tells nothing."""
    reads: tuple[str, ...]
    """Versions of InferencePool that it reads; empty: not known."""
    seen: str
    pools: tuple[PoolWeighing, ...]
    picker: str
    needs: PickerNeeds
    writes: tuple[str, ...]
    tried: tuple[str, ...]
    untried: tuple[str, ...]
    sources: tuple[str, ...]

    def splits(self, images: Iterable[str] | None) -> tuple[PoolWeighing, ...]:
        """What may hold where these images run; None: it is not known which. One where that can be told."""
        running = None if images is None else list(images)
        version = _numbers((version_in(running, self.image) if running is not None else "") or "")
        found = []
        for row in self.pools:
            if row.beside and running is not None and version_in(running, row.beside) is None:
                continue
            if row.below and version and version >= _numbers(row.below):
                continue
            found.append(row)
            if not (row.beside and running is None) and not (row.below and not version):
                break
        return tuple(found)


def version_in(images: Iterable[str], image: str) -> str | None:
    """The tag of the first image of this name, empty without one; None where none runs."""
    for one in images if image else ():
        name = one.partition("@")[0]
        tag = name.rpartition(":")[2] if ":" in name.rpartition("/")[2] else ""
        if f"/{name.removesuffix(f':{tag}')}".endswith(f"/{image}"):
            return tag
    return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"[0-9]{1,6}", version[:64])[:3])


@cache
def gateway_peers() -> tuple[GatewayPeer, ...]:
    """All files, by name. Raises KeyError or ValueError for one that cannot be read."""
    folder = resources.files(__package__).joinpath("gateways")
    files = sorted((one for one in folder.iterdir() if one.name.endswith(".yaml")), key=lambda one: one.name)
    return tuple(
        _peer(one.name.removesuffix(".yaml"), yaml.safe_load(one.read_text("utf-8"))) for one in files
    )


def peer_of(controller: str) -> GatewayPeer | None:
    """The gateway behind a controllerName."""
    return next((one for one in gateway_peers() if controller in one.controllers), None)


def _peer(key: str, said: Mapping[str, Any]) -> GatewayPeer:
    return GatewayPeer(
        key=key,
        name=said["name"],
        controllers=tuple(said["controllers"]),
        image=said["image"],
        reads=tuple(said["reads"]),
        seen=said["seen"],
        pools=tuple(map(_split, said["pools"])),
        picker=said["picker"],
        needs=_needs(said.get("needs", {})),
        writes=tuple(said["writes"]),
        tried=tuple(said["tried"]),
        untried=tuple(said["untried"]),
        sources=tuple(said["sources"]),
    )


def _split(said: Mapping[str, Any]) -> PoolWeighing:
    return PoolWeighing(**{**said, "holds": Holds(said["holds"])})


def _needs(said: Mapping[str, bool]) -> PickerNeeds:
    needs = PickerNeeds(
        keep_streams=said.get("keepStreams", False), destination_rule=said.get("destinationRule", False)
    )
    if needs.values != said:
        raise ValueError(f"needs: {said} names what is no value of a picker, or what it does not need")
    return needs
