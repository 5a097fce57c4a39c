"""The model base: camelCase JSON names, unknown fields tolerated on reading."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

__all__ = ["ApiModel", "first_error", "shape_errors"]


class ApiModel(BaseModel):
    """Base of all API models.

    Unknown fields are ignored, not refused: a newer client's object must not blind an older controller.
    ``strict`` keeps ``"1"`` from passing for ``1``, as the API server would.
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
