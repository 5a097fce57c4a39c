"""Strings and numbers of a status: how long one may be, and when it is written (``codec.py: Stored``)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rollouts.api.codec import Stored

__all__ = [
    "KEPT",
    "Called",
    "Filled",
    "Kept",
    "KeptNumber",
    "KeptShort",
    "Long",
    "Noticed",
    "Number",
    "Said",
    "Selector",
    "Short",
    "Source",
    "Time",
]

Short = Annotated[str, Field(max_length=253)]
Long = Annotated[str, Field(max_length=2048)]
Source = Annotated[str, Field(max_length=4096)]
"""As long as a variant's labels and its model can be: eight labels of 381 characters, and a model of 256."""
Selector = Annotated[str, Field(max_length=4096)]
"""As long as what is kept of a pool's selector (``objects/pools.py``)."""
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Number = Annotated[int, Field(ge=0)]
KEPT = Stored(kept=True)
"""Written although it is empty."""
Said = Annotated[Long, Stored(cut=1024)]
Kept = Annotated[Long, Stored(kept=True, cut=1024)]
Noticed = Annotated[Long, Stored(cut=512)]
KeptShort = Annotated[Short, KEPT]
KeptNumber = Annotated[Number, KEPT]
Filled = Annotated[Short, Stored(least=1)]
Called = Annotated[str, Field(max_length=253 + 1 + 63), Stored(least=1)]
"""A pool's name, or that of one of its roles: the pool's, a slash, and the value of a label."""
