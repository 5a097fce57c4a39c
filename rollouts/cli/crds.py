"""``rollouts crds``."""

from __future__ import annotations

import click

from rollouts.api.crds import crd_files
from rollouts.terminal import document

__all__ = ["crds"]


@click.command()
def crds() -> None:
    """Print the CRDs, ready for `kubectl apply --server-side -f -`."""
    document("---\n".join(text for _, text in crd_files()), nl=False)
