"""`fission init` and the way from there: every command that is printed is typed as it is printed."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from fission_grpo.cli import app
from fission_grpo.evaluation.heldout import Evaluation
from fission_grpo.files import read_jsonl

SMALL = {"trainer": {"steps": 1, "queries": 2, "group_size": 2}, "fission": {"contexts": 1, "group_size": 2}}
HELD_OUT = 6


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty folder, and no world of another test."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "shop", raising=False)
    with chdir(tmp_path):
        yield
    sys.modules.pop("shop", None)


def fission(line: str) -> Any:
    program, *arguments = shlex.split(line)
    assert program == "fission"
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, f"{line}: {result.output}"
    return result


def printed(result: Any) -> list[str]:
    """The commands that a command ends with."""
    return re.findall(r"fission (?:data|train|eval|compare|report) [^`\n]*", result.output)


def made_smaller() -> None:
    """The settings and the held-out tasks of the project, for a test."""
    heldout = Path("heldout.jsonl")
    heldout.write_text("".join(heldout.read_text().splitlines(keepends=True)[:HELD_OUT]))
    file = Path("fission.yaml")
    values = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump(values | {key: values[key] | small for key, small in SMALL.items()}))


def test_from_an_empty_folder_to_a_comparison_by_what_is_printed_alone() -> None:
    began = fission("fission init shop")
    assert "  cd shop\n" in began.stdout
    with chdir("shop"):
        assert len(list(read_jsonl(Path("tasks.jsonl")))) == 10
        made_smaller()
        (check,) = printed(began)
        checked = fission(check)
        assert "tasks.jsonl: 10 tasks, no problems" in checked.stdout
        before, train = printed(checked)
        assert fission(before).stdout.count("Probe: next call right") == 1
        look, after = printed(fission(train))
        fission(look)
        Path("report.html").unlink()
        evaluated = fission(after)
        (compare,) = printed(evaluated)
        compared = fission(compare)
        assert "precondition" in compared.stdout
        (report,) = printed(compared)
        fission(report)
        assert Path("report.html").exists()
        found = Evaluation.load(Path("runs/shop/tasks"))
        # One corrupted call for each held-out task; every second user is logged in already, and only in the worlds of
        # the others is an order before the login refused.
        assert (len(found.episodes), len(found.mixed), len(found.precondition)) == (6, 6, 3)
        assert all(record.probe and record.probe.call.name == "create_ticket" for record in found.precondition)


def test_without_an_evaluation_before_its_command_is_printed_and_works() -> None:
    fission("fission init shop")
    with chdir("shop"):
        made_smaller()
        fission("fission train --config fission.yaml")
        evaluated = fission("fission eval tasks heldout.jsonl --run runs/shop --no-probes")
        assert "Probe" not in evaluated.stdout
        (before,) = printed(evaluated)
        assert before == ("fission eval tasks heldout.jsonl --run runs/shop --model nano --output runs/shop-before")
        fission(before)
        assert set(json.loads(Path("runs/shop-before/complete.json").read_text())) == {
            *("episodes", "mixed", "precondition")
        }


def test_the_test_of_the_project_passes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fission("fission init shop")
    monkeypatch.syspath_prepend(str(Path("shop").resolve()))
    runpy.run_path("shop/test_shop.py", run_name="__main__")
    assert "every task can be solved" in capsys.readouterr().out


def test_all_that_is_wrong_with_a_project_is_said_at_once() -> None:
    fission("fission init shop")
    with chdir("shop"):
        one, two, *_ = Path("tasks.jsonl").read_text().splitlines()
        Path("heldout.jsonl").write_text(two + "\n")
        Path("tasks.jsonl").write_text(f"{one.replace('create_ticket', 'creat_ticket', 1)}\n{two}\n")
        result = CliRunner().invoke(app, ["data", "check", "--config", "fission.yaml"])
        assert result.exit_code == 1
        assert "tasks.jsonl: line 1: turns[0][1] (creat_ticket): unknown tool" in result.stdout
        Path("tasks.jsonl").write_text(f"{two}\n")
        result = CliRunner().invoke(app, ["data", "check", "--config", "fission.yaml", "--json"])
        (_, heldout) = json.loads(result.stdout)["files"]
        name = json.loads(two)["id"]
        assert heldout["problems"] == [f"heldout.jsonl: {name}: asks the same as {name}, which is trained on"]


def test_demonstrations_are_made_from_ones_own_tasks() -> None:
    fission("fission init shop")
    with chdir("shop"):
        line = "fission sft --config fission.yaml --output shown --demonstrations 24 --steps 1 --json"
        told = json.loads(fission(line).stdout)
        # 10 tasks, half of which lack a login: 5 different premature calls, and 12 corrupted ones in three rounds.
        assert (told["demonstrations"], told["clean"]) == (17, 9 * 17)
        fission("fission eval tasks --config fission.yaml --model shown/policy --output runs/shown --no-probes")


def test_without_a_world_a_message_is_judged_by_the_calls_that_are_right_next() -> None:
    tool = {"type": "function", "function": {"name": "get_account_info", "parameters": {"type": "object"}}}
    task = {"messages": [{"role": "user", "content": "Show my account."}], "tools": [tool]}
    lines = [{**task, "id": "call", "gold": [{"name": "get_account_info"}]}, {**task, "id": "words", "gold": []}]
    Path("points.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    fission("fission eval tasks points.jsonl --model nano --output points")
    for record in Evaluation.load(Path("points")).episodes:
        called = [call.name for call in record.turns[-1].calls]
        assert record.verdict is not None
        assert record.verdict.ok == (called == (["get_account_info"] if record.task == "call" else []))
