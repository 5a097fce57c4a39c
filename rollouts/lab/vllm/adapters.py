"""Models and LoRA adapters of one simulated server, and the runtime loading of adapters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from rollouts.lab.vllm.knobs import Knobs, LoraLoad
from rollouts.lab.vllm.requests import ApiError
from rollouts.lab.vllm.spec import PodSpec

__all__ = ["Adapters"]


class Adapters:
    """Names that the server answers to: the base model and the loaded adapters."""

    def __init__(self, spec: PodSpec) -> None:
        self._base = spec.served_model
        self._root = spec.model
        self._max_model_len = spec.max_model_len
        self._paths = dict(spec.adapters)
        self._known = frozenset(spec.adapter_paths)
        self._without_effect = set[str]()

    def resolve(self, name: str) -> str:
        """The model that serves ``name``: the base for an empty one. Raises ApiError 404."""
        if not name or name == self._base:
            return self._base
        if name in self._paths:
            return name
        # Adapters are not listed among the aliases.
        raise ApiError(
            404,
            "NotFoundError",
            f"The model `{name[:200]}` does not exist. Valid aliases: {self._base}.",
            "model",
        )

    def content(self, name: str) -> str:
        """What a served name stands for: answers depend on it, not on the name."""
        path = self._paths.get(name, "")
        return path if path and path not in self._without_effect else self._base

    def cards(self, created: int) -> list[dict[str, Any]]:
        """Entries of ``/v1/models``: the base without parent, adapters with it."""
        common = {"object": "model", "created": created, "owned_by": "vllm"}
        base = {"id": self._base, **common, "root": self._root, "parent": None}
        adapters = [
            {"id": name, **common, "root": path, "parent": self._base, "max_model_len": None}
            for name, path in self._paths.items()
        ]
        return [{**base, "max_model_len": self._max_model_len}, *adapters]

    def load(self, body: Mapping[str, Any], knobs: Knobs, answer: Callable[[str | ApiError], None]) -> None:
        """Load an adapter; ``answer`` is called when that is over, right or wrong. Raises ApiError."""
        name, path = body.get("lora_name"), body.get("lora_path")
        if not (isinstance(name, str) and name and isinstance(path, str) and path):
            raise ApiError(400, "InvalidUserInput", "Both 'lora_name' and 'lora_path' must be provided.")
        if name == self._base:
            raise ApiError(400, "InvalidUserInput", f"The name '{name}' is that of the base model.")
        if name in self._paths and not body.get("load_inplace", False):
            raise ApiError(
                400, "InvalidUserInput", f"The lora adapter '{name[:200]}' has already been loaded."
            )
        outcome = self._outcome(name, path, knobs)
        loop = asyncio.get_running_loop()
        loop.call_later(knobs.lora_load_seconds, self._loaded, name, path, outcome, answer)

    def _outcome(self, name: str, path: str, knobs: Knobs) -> str | ApiError:
        if knobs.lora_load is LoraLoad.FAIL:
            return ApiError(
                500, "InternalServerError", f"LoRA rank of '{name[:200]}' is above max_lora_rank."
            )
        if knobs.lora_load is LoraLoad.MISSING or (self._known and path not in self._known):
            return ApiError(
                404, "NotFoundError", f"Loading lora {name[:200]} failed: No adapter found for {path[:200]}"
            )
        if knobs.lora_load is LoraLoad.NO_EFFECT:
            self._without_effect.add(path)
        return f"Success: LoRA adapter '{name}' added successfully."

    def _loaded(
        self, name: str, path: str, outcome: str | ApiError, answer: Callable[[str | ApiError], None]
    ) -> None:
        if isinstance(outcome, str):
            self._paths[name] = path
        answer(outcome)

    def unload(self, body: Mapping[str, Any]) -> str | ApiError:
        """Unload an adapter; requests that run on it finish. Raises ApiError."""
        name = body.get("lora_name")
        if not isinstance(name, str) or not name:
            raise ApiError(400, "InvalidUserInput", "'lora_name' needs to be provided to unload.")
        if not self.drop(name):
            return ApiError(404, "NotFoundError", f"The lora adapter '{name[:200]}' cannot be found.")
        return f"Success: LoRA adapter '{name}' removed successfully."

    def drop(self, name: str) -> bool:
        """Forget an adapter, as an eviction does. Answers whether it was there."""
        return self._paths.pop(name, None) is not None
