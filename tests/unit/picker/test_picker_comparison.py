"""The comparison with the Go pickers: ours as recorded, the table, and building theirs once."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from rollouts.picker.conformance.cases import load_cases
from rollouts.picker.conformance.report import CaseResult
from tools.gopickers.__main__ import main
from tools.gopickers.build import PICKERS, GoPickerError, build, built
from tools.gopickers.comparison import PATH, check_ours, render, verdicts

_FAKE_GO = """#!{python}
import os, sys
with open("{log}", "a") as log:
    log.write(" ".join(sys.argv[1:]) + " in " + os.getcwd() + "\\n")
if {fail}:
    sys.exit("no such module")
target = sys.argv[sys.argv.index("-o") + 1]
open(target, "w").close()
os.chmod(target, 0o755)
"""


async def test_ours_does_what_is_recorded(tmp_path: Path) -> None:
    results = await check_ours(tmp_path)

    assert {result.name: result.problem for result in results if result.problem} == {}
    assert verdicts(PATH.read_text(encoding="utf-8"))["ours"] == {result.name: True for result in results}


def test_the_record_has_every_case_of_every_picker() -> None:
    recorded = verdicts(PATH.read_text(encoding="utf-8"))
    cases = {case.name for case in load_cases()}

    assert set(recorded) == {"ours", *(f"{picker.name} {picker.version}" for picker in PICKERS)}
    assert all(set(found) == cases for found in recorded.values())


def result(name: str, problem: str = "") -> CaseResult:
    return CaseResult(name=name, problem=problem, reason="because", source="somewhere")


def test_a_page_says_who_is_wrong_and_how() -> None:
    page = render({"ours": [result("a"), result("b")], "epp v1.5.0": [result("a"), result("b", "no `x`")]})

    assert verdicts(page) == {"ours": {"a": True, "b": True}, "epp v1.5.0": {"a": True, "b": False}}
    assert "| right | 2 of 2 | 1 of 2 |" in page
    assert "- b: `no ´x´`" in page
    assert "What ours does" not in page


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pretend Go, whose log this is; nothing is built yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    log = tmp_path / "go.log"
    write_go(tmp_path, log, fail=False)
    return log


def write_go(tmp_path: Path, log: Path, *, fail: bool) -> None:
    program = tmp_path / "bin" / "go"
    program.write_text(_FAKE_GO.format(python=sys.executable, log=log, fail=fail))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


def test_a_picker_is_built_once_from_its_own_module(go: Path) -> None:
    said: list[str] = []
    paths = [build(picker, said.append) for picker in (*PICKERS, *PICKERS)]

    commands = go.read_text().splitlines()
    assert paths[:2] == paths[2:] == [built(picker) for picker in PICKERS]
    assert len(commands) == len(PICKERS)
    for picker, command in zip(PICKERS, commands, strict=True):
        assert command.startswith("build ")
        assert f"/cmd/{picker.name} in " in command
        assert command.endswith(f"tools/gopickers/{picker.name}")
        module = (Path(command.rpartition(" ")[2]) / "go.mod").read_text()
        assert f"gateway-api-inference-extension {picker.version} //" in module
    assert "minutes" in said[0]


def test_a_build_that_fails_leaves_nothing_and_shows_the_compiler(go: Path, tmp_path: Path) -> None:
    write_go(tmp_path, go, fail=True)

    with pytest.raises(GoPickerError, match="no such module"):
        build(PICKERS[0], lambda _: None)
    assert built(PICKERS[0]) is None


def test_without_go_the_command_says_what_to_install(go: Path, tmp_path: Path) -> None:
    (tmp_path / "bin" / "go").unlink()

    answer = CliRunner().invoke(main, ["build"])

    assert answer.exit_code == 1
    assert "lwepp is built with Go, which is not on the PATH" in answer.output


def test_a_record_is_not_overwritten_by_one_with_gaps(go: Path) -> None:
    before = PATH.read_bytes()

    answer = CliRunner().invoke(main, ["check", "--write"])

    assert answer.exit_code == 1
    assert "NOT CHECKED, not built: lwepp, epp" in answer.output
    assert PATH.read_bytes() == before
