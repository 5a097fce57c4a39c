"""``rollouts crds``."""

from __future__ import annotations

import click

from rollouts.api.crds import crd_files

__all__ = ["crds"]


@click.command()
def crds() -> None:
    """Print the CRDs, ready for `kubectl apply --server-side -f -`."""
    click.echo("---\n".join(text for _, text in crd_files()), nl=False)
