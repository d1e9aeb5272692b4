"""The examples and the README do what they say; whatever takes more than seconds is cut down to one update."""

from __future__ import annotations

import importlib.util
import re
import runpy
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from fission_grpo.cli import app
from fission_grpo.files import read_jsonl

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
SMALL = ("trainer.steps=1", "trainer.queries=2", "trainer.group_size=2", "fission.contexts=1", "fission.group_size=2")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are written aside; the examples are where the commands name them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(EXAMPLES)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in [name for name in sys.modules if name.partition(".")[0] == "examples"]:
        monkeypatch.delitem(sys.modules, name)


def own_tools() -> ModuleType:
    spec = importlib.util.spec_from_file_location("own_tools", EXAMPLES / "own_tools.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_script_trains_and_measures(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["own_tools.py", "--steps", "1"])
    own_tools().main()
    said = capsys.readouterr().out
    assert said.count("Error recovery (ERR)") == 2
    assert "after 1 updates" in said
    assert "policy in runs/own-tools/policy" in said


@pytest.mark.parametrize(("name", "file"), [("training", "own_tools.jsonl"), ("held-out", "own_tools_heldout.jsonl")])
def test_the_files_hold_the_tasks_of_the_script(name: str, file: str) -> None:
    kept = list(read_jsonl(EXAMPLES / file))
    assert kept == own_tools().make_tasks(name, len(kept))


def test_two_arms_are_trained_evaluated_and_compared() -> None:
    script = (EXAMPLES / "compare_two_arms.sh").read_text(encoding="utf-8")
    typed = [line for line in script.splitlines() if line.startswith("fission ")]
    for line in typed:
        assert line.removesuffix(' "$@"') in (ROOT / "README.md").read_text(encoding="utf-8")
        arguments = [word for one in shlex.split(line)[1:] for word in (SMALL if one == "$@" else (one,))]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
    assert "Error recovery (ERR)" in result.stdout
    assert Path("runs/own-grpo/config.yaml").read_text().count("contexts: 0") == 1
    for line in re.findall(
        r"^fission (report .*?)(?: +#.*)?$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    ):
        assert CliRunner().invoke(app, shlex.split(line)).exit_code == 0
    assert Path("report.html").stat().st_size < Path("compared.html").stat().st_size


def test_decision_points_are_trained_on_without_a_world(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["no_world.py"])
    runpy.run_path("examples/no_world.py", run_name="__main__")
    before, after = re.findall(r"Final success +([\d.]+) %", capsys.readouterr().out)
    assert float(after) > float(before)


def test_the_ten_lines_of_the_readme_work(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "train(" in block]
    Path("script.py").write_text(block, encoding="utf-8")
    runpy.run_path("script.py")
    assert "Final success" in capsys.readouterr().out
