"""Models and LoRA adapters of one simulated server, and the runtime loading of adapters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from rollouts.lab.vllm.errors import ApiError, invalid_field
from rollouts.lab.vllm.knobs import Knobs, LoraLoad
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
        self._large = frozenset(spec.large_adapters)
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
        name, path = _text(body, "lora_name"), _text(body, "lora_path")
        if not name or not path:
            raise ApiError(400, "InvalidUserInput", "Both 'lora_name' and 'lora_path' must be provided.")
        if name == self._base:
            raise ApiError(
                400, "InvalidUserInput", f"The lora adapter '{name}' conflicts with a served base model."
            )
        if name in self._paths and not body.get("load_inplace", False):
            why = "If you want to load the adapter in place, set 'load_inplace' to True."
            raise ApiError(
                400, "InvalidUserInput", f"The lora adapter '{name[:200]}' has already been loaded. {why}"
            )
        outcome = self._outcome(name, path, knobs)
        loop = asyncio.get_running_loop()
        loop.call_later(knobs.lora_load_seconds, self._loaded, name, path, outcome, answer)

    def _outcome(self, name: str, path: str, knobs: Knobs) -> str | ApiError:
        if knobs.lora_load is LoraLoad.FAIL or path in self._large:
            why = "Worker failed with error 'LoRA rank 16 is greater than max_lora_rank 8.'"
            where = "please check the stack trace above for the root cause"
            return ApiError(500, "InternalServerError", f"Call to add_lora method failed: {why}, {where}")
        if knobs.lora_load is LoraLoad.MISSING or (self._known and path not in self._known):
            return ApiError(
                404,
                "NotFoundError",
                f"Loading lora {name[:200]} failed: No adapter found for {_hidden(path)}",
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
        name = _text(body, "lora_name")
        if not name:
            why = "'lora_name' needs to be provided to unload a LoRA adapter."
            raise ApiError(400, "InvalidUserInput", why)
        if not self.drop(name):
            return ApiError(404, "NotFoundError", f"The lora adapter '{name[:200]}' cannot be found.")
        return f"Success: LoRA adapter '{name}' removed successfully."

    def drop(self, name: str) -> bool:
        """Forget an adapter, as an eviction does. Answers whether it was there."""
        return self._paths.pop(name, None) is not None


def _text(body: Mapping[str, Any], key: str) -> str:
    """A field that must be there and a text. Raises ApiError."""
    if key not in body:
        raise invalid_field(f"body.{key}", "missing", "Field required", dict(body))
    if not isinstance(body[key], str):
        raise invalid_field(f"body.{key}", "string_type", "Input should be a valid string", body[key])
    return str(body[key])


def _hidden(path: str) -> str:
    """As messages of vLLM show a path: not at all, if it has folders."""
    return "<path>" if path.count("/") > 1 else path[:200]
