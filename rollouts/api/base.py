"""The model base: camelCase JSON names, unknown fields tolerated on reading."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.alias_generators import to_camel

__all__ = ["ApiModel", "first_error", "shape_errors"]


class ApiModel(BaseModel):
    """Base of all API models.

    Unknown fields are ignored, not refused: a newer client's object must not blind an older controller.
    ``strict`` keeps ``"1"`` from passing for ``1``, as the API server would. Like that, null is left out where a field
    may not be null and need not be there: files say what the cluster says.
    """

    model_config = ConfigDict(
        defer_build=True,  # a command that only reads a status validates nothing
        alias_generator=to_camel,
        populate_by_name=True,
        extra="ignore",
        frozen=True,
        strict=True,
        use_attribute_docstrings=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or not any(value is None for value in given.values()):
            return given
        pruned = _pruned(cls)
        return {name: value for name, value in given.items() if value is not None or name not in pruned}


@cache
def _pruned(model: type[ApiModel]) -> frozenset[str]:
    """JSON names of the fields of which null says nothing."""
    return frozenset(
        field.alias or name
        for name, field in model.model_fields.items()
        if not field.is_required() and type(None) not in get_args(field.annotation)
    )


def shape_errors(error: ValidationError, root: str, most: int) -> list[str]:
    """Where something is wrong below ``root`` (``spec.steps[0].setWeight``), and what."""
    found = []
    for item in error.errors(include_url=False, include_input=False)[:most]:
        parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in item["loc"]]
        found.append(f"{root}{''.join(parts)}: {item['msg']}")
    return found


def first_error(error: ValidationError) -> str:
    """Where the first thing is wrong, and what."""
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
