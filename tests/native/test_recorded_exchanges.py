"""What a real Envoy said to the picker, message by message, gets the recorded replies on both data paths.

Recorded by tests/kit/exchange_recorder.py: clients of every kind (codings, charsets, none of a model, refused ones, one
that leaves), streams that are left after the request, kept, or measured.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("inference_rollouts_native", reason="the native data path is not built")

from benchmarks.native.sequences import Both, Stream
from rollouts.picker.core.objects import PoolName
from rollouts.picker.core.routing import Unready
from rollouts.picker.core.schedule import Load

RECORDING = Path(__file__).parents[1] / "recordings" / "envoy-exchanges.jsonl"


def bytes_of(texts: Iterable[str]) -> list[bytes]:
    return [base64.b64decode(text) for text in texts]


def load(said: dict[str, Any]) -> Load:
    sets = ("active_adapters", "adapters", "models")
    return Load(
        **{
            name: frozenset(value) if name in sets and value is not None else value
            for name, value in said.items()
        }
    )


class Replay:
    """Pickers and their streams by their numbers in the recording."""

    def __init__(self) -> None:
        self.pickers: dict[int, Both] = {}
        self.streams: dict[int, Stream] = {}
        self.replies: list[tuple[list[bytes], list[bytes]]] = []

    def line(self, line: dict[str, Any]) -> None:
        if "picker" in line:
            both = self.pickers.setdefault(line["picker"], Both(unready=Unready.SPILL, restore_model=False))
            if "objects" in line:
                pools = [PoolName(*pool) for pool in line["pools"]]
                both.update(line["objects"], line["at"], line["wall"], pools)
            elif "load" in line:
                both.observe(line["address"], load(line["load"]), line["at"], line["before"])
            else:
                how = {"keep": line["keep"], "variant_header": line["variant_header"].encode()}
                self.streams[line["stream"]] = Stream(both, **how)
            return
        stream = self.streams[line["stream"]]
        if "in" in line:
            (message,) = bytes_of([line["in"]])
            said = stream.receive(message, line["at"])
            assert isinstance(said, list)
            self.replies.append((bytes_of(line["out"]), said))
        elif "half_closed" in line:
            self.replies.append((bytes_of(line["half_closed"]), stream.half_closed(line["at"])))
        else:
            stream.disconnect(line["at"])


def test_envoys_streams_get_the_recorded_replies_on_both_paths() -> None:
    replay = Replay()
    for line in RECORDING.read_text(encoding="utf-8").splitlines():
        replay.line(json.loads(line))
    for both in replay.pickers.values():
        both.compare()

    assert [(recorded, said) for recorded, said in replay.replies if recorded != said] == []
    assert len(replay.pickers) >= 3
    assert sum(bool(said) for _, said in replay.replies) > 50
    kinds = {outcome for both in replay.pickers.values() for outcome in both.outcomes}
    assert {"dispatched", "measured", "unsupported-body"} <= kinds
