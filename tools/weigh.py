"""What each direct dependency costs on the disk: ``python -m tools.weigh``. MB with what it alone brings."""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

__all__ = ["needed_by", "weight"]


def weight(found: Distribution) -> int:
    """Bytes of an installed package."""
    places = [Path(str(file.locate())) for file in found.files or []]
    return sum(place.stat().st_size for place in places if place.exists())


def needed_by(name: str) -> set[str]:
    """Names of installed packages that a package needs, itself among them."""
    seen, pending = set[str](), [name]
    while pending:
        one = canonicalize_name(pending.pop())
        try:
            requires = distribution(one).requires or []
        except PackageNotFoundError:
            continue
        if one not in seen:
            seen.add(one)
            wanted = map(Requirement, requires)
            pending += [r.name for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})]
    return seen


def main() -> None:
    """Print the table, the heaviest first."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    direct = [Requirement(line).name for line in project["dependencies"]]
    trees = {name: needed_by(name) for name in direct}
    whole = set[str]().union(*trees.values())
    lines = []
    for name in direct:
        others = set[str]().union(*(tree for other, tree in trees.items() if other != name))
        lines.append((sum(weight(distribution(one)) for one in trees[name] - others) / 1e6, name))
    total = sum(weight(distribution(one)) for one in whole) / 1e6
    rows = [f"{megabytes:7.1f}  {name}" for megabytes, name in sorted(lines, reverse=True)]
    sys.stdout.write("\n".join([*rows, f"{total:7.1f}  all {len(whole)} packages", ""]))


if __name__ == "__main__":
    main()
