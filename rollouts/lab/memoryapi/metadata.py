"""What a server demands of names, labels, annotations and finalizers (Kubernetes docs, "Object Names and IDs",
"Labels and Selectors"; apimachinery's ``validation`` for the words)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["metadata_errors"]

_LONGEST_NAME = 253
_LONGEST_LABEL = 63
_MOST_ANNOTATIONS = 256 * 1024
"""Bytes of all keys and values together."""
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL_NAME = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_NO_SUBDOMAIN = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start "
    "and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    rf"'{_SUBDOMAIN.pattern}')"
)
_NO_LABEL_NAME = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    f"character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '{_LABEL_NAME.pattern}')"
)
_NO_LABEL_VALUE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)


def metadata_errors(metadata: Mapping[str, Any], old: Mapping[str, Any], *, named: bool) -> Iterator[str]:
    """Messages with field paths; what is equal to ``old`` was judged before. ``named``: the name is a subdomain."""
    if named and (not old or metadata.get("name") != old.get("name")):
        yield from _name_errors(metadata.get("name"))
    labels = metadata.get("labels") or {}
    for key, value in labels.items() if labels != old.get("labels") else ():
        yield from (f"metadata.labels: {text}" for text in (*_key_errors(key), *_value_errors(value)))
    annotations = metadata.get("annotations") or {}
    if annotations != old.get("annotations"):
        for key in annotations:
            yield from (f"metadata.annotations: {text}" for text in _key_errors(key.lower(), key))
        if (
            sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items())
            > _MOST_ANNOTATIONS
        ):
            yield f"metadata.annotations: Too long: may not be more than {_MOST_ANNOTATIONS} bytes"
    for name in (
        metadata.get("finalizers") or () if metadata.get("finalizers") != old.get("finalizers") else ()
    ):
        yield from (f"metadata.finalizers: {text}" for text in _key_errors(name))


def _name_errors(name: Any) -> Iterator[str]:
    if not name:
        yield "metadata.name: Required value: name or generateName is required"
    elif len(name) > _LONGEST_NAME:
        yield f'metadata.name: Invalid value: "{name}": must be no more than {_LONGEST_NAME} characters'
    elif not _SUBDOMAIN.fullmatch(name):
        yield f'metadata.name: Invalid value: "{name}": {_NO_SUBDOMAIN}'


def _key_errors(key: str, shown: str = "") -> Iterator[str]:
    """A qualified name: an optional DNS prefix, a slash, a name of at most 63 characters."""
    prefix, slash, name = key.rpartition("/")
    said = f'Invalid value: "{shown or key}":'
    if slash and not _SUBDOMAIN.fullmatch(prefix):
        yield f"{said} prefix part {_NO_SUBDOMAIN}" if prefix else f"{said} prefix part must be non-empty"
    if len(name) > _LONGEST_LABEL:
        yield f"{said} name part must be no more than {_LONGEST_LABEL} bytes"
    if not _LABEL_NAME.fullmatch(name):
        yield f"{said} {_NO_LABEL_NAME}"


def _value_errors(value: str) -> Iterator[str]:
    if len(value) > _LONGEST_LABEL:
        yield f'Invalid value: "{value}": must be no more than {_LONGEST_LABEL} bytes'
    if value and not _LABEL_NAME.fullmatch(value):
        yield f'Invalid value: "{value}": {_NO_LABEL_VALUE}'
