"""Miri over the core's tests: nothing undefined in the crates below, and what is planted is seen."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tools.native import NATIVE, NativeBuildError, has_miri, miri

pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(3000),
    pytest.mark.skipif(not has_miri(), reason="no nightly toolchain with Miri"),
]

FREED = """
#[test]
fn reads_what_was_freed() {
    let freed = { let bytes = bytes::Bytes::from(vec![1u8; 8]); bytes.as_ptr() };
    assert_ne!(unsafe { *freed }, 2);
}
"""


def test_nothing_is_undefined_where_the_core_is_tested() -> None:
    miri()


def test_a_read_of_freed_memory_is_seen(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    workspace = tmp_path / "native"
    shutil.copytree(NATIVE, workspace, ignore=shutil.ignore_patterns("target", "recorded.rs"))
    (workspace / "core" / "tests" / "planted.rs").write_text(FREED, "utf-8")
    with pytest.raises(NativeBuildError, match="miri"):
        miri("--test", "planted", folder=workspace)
    assert "Undefined Behavior" in capfd.readouterr().err
