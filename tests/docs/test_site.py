"""The documentation as a site: built strictly, and asking nobody else."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

LOADED = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"(https?:[^\"]*)\"|<link\b[^>]*\brel=\"stylesheet\"[^>]*\bhref=\"(https?:[^\"]*)\""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_and_link_of_the_site_is_built(site: Path):
    """Strict: a link or an anchor that leads nowhere fails the build."""
    built = {path.relative_to(site).with_suffix(".md") for path in site.rglob("*.html")}
    written = {path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")}

    assert {
        Path("index.md") if path.name == "README.md" and path.parent == Path() else path for path in written
    } <= (built | {path.with_name("README.md") for path in built if path.name == "index.md"})


def test_pages_load_nothing_from_elsewhere(site: Path):
    loaded = {
        found.group(0)
        for page in site.rglob("*.html")
        for found in LOADED.finditer(page.read_text(encoding="utf-8"))
    }

    assert loaded == set()
