"""A run, once more: what is compared, what is refused, and a whole one."""

from __future__ import annotations

import json
import shutil
from importlib import resources
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fission_grpo.cli import app
from fission_grpo.commands.reproduce import compare_curves
from fission_grpo.run.folder import RunFolder
from fission_grpo.run.provenance import read_provenance, record_provenance

TINY = (
    *("synthetic.count=4", "synthetic.apis=[TwitterAPI]", "synthetic.tools=[2, 3]", "trainer.steps=2"),
    *("trainer.queries=2", "trainer.group_size=2", "rollouts.max_tokens=8", "rollouts.max_turns=2"),
    *("fission.contexts=1", "fission.group_size=2", "trainer.learning_rate=1e-3"),
)


def test_curves_are_equal_whatever_the_clocks_say() -> None:
    row = {"step": 0, "success": 0.5, "time/explore": 1.0, "simulator/seconds": 2.0}
    curves = compare_curves([row], [{**row, "time/explore": 3.0, "simulator/seconds": 4.0}])
    assert curves.equal
    assert list(curves.lines()) == ["the curves are equal: 1 metrics of 1 steps, to the last digit"]


def test_the_first_step_that_differs_is_named_with_its_numbers() -> None:
    then = [{"step": step, "success": 0.5, "update/loss": 0.25} for step in range(4)]
    now = [*then[:2], {"step": 2, "success": 0.5, "update/loss": 0.5}, {"step": 3, "success": 1.0}]
    curves = compare_curves(then, now)
    assert not curves.equal
    assert [(one.step, one.metric, one.now) for one in curves.different] == [
        (2, "update/loss", 0.5),
        (3, "success", 1.0),
        (3, "update/loss", None),  # a metric that is missing is a difference
    ]
    assert list(curves.lines()) == [
        "the curves are not equal: the first 2 of 4 steps are, and step 2 differs in 1 of 2 metrics",
        "  update/loss 0.25 then, 0.5 now",
    ]


def test_a_run_without_a_common_step_proves_nothing() -> None:
    assert not compare_curves([{"step": 0, "success": 0.5}], []).equal


def fission(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return done.exit_code, done.output


def test_a_run_is_repeated_from_another_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a relative path of its model, which is then changed, and put back."""
    home, away = tmp_path / "home", tmp_path / "away"
    home.mkdir()
    away.mkdir()
    shutil.copytree(Path(str(resources.files("fission_grpo.models") / "nano_weights")), home / "models" / "own")
    monkeypatch.chdir(home)
    status, said = fission("train", "--model", "models/own", *TINY, "--output", "run")
    assert status == 0, said
    origin = read_provenance(home / "run")[0]
    assert origin.inputs is not None
    assert origin.inputs.model == str(home / "models" / "own")
    assert origin.inputs.tasks == 4
    assert {"model.safetensors", "tokenizer.json"} <= origin.inputs.files.keys()

    monkeypatch.chdir(away)
    status, said = fission("reproduce", home / "run", "--json")
    assert status == 0, said
    found = json.loads(said[said.index("{") :])
    assert (found["equal"], found["steps"], found["same_weights"], found["differences"]) == (True, 2, True, [])
    assert found["repeated_in"] == str(home / "run-reproduced")

    metrics = RunFolder(home / "run").metrics
    first, second = map(json.loads, metrics.read_text().splitlines())
    metrics.write_text("".join(json.dumps(row) + "\n" for row in (first, {**second, "reward": second["reward"] + 1})))
    status, said = fission("reproduce", home / "run")  # what is there already is not trained again
    assert status == 1
    assert "the first 1 of 2 steps are, and step 1 differs in 1 of" in said
    assert len(read_provenance(home / "run-reproduced")) == 1

    with (home / "models" / "own" / "tokenizer.json").open("a") as file:
        file.write("\n")
    status, said = fission("reproduce", home / "run", "--output", away / "again")
    assert status == 2
    assert "cannot be repeated: tokenizer.json of the model" in said
    assert not (away / "again").exists()


def test_what_is_no_training_run_says_how_it_was_made(tmp_path: Path) -> None:
    record_provenance(tmp_path)
    status, said = fission("reproduce", tmp_path)
    assert status == 2
    assert "holds no training run, and only those are repeated; it was made by `" in said


def test_a_supervised_run_is_repeated_as_one(tmp_path: Path) -> None:
    typed = ("--model", "nano", "--demonstrations", "0", "--clean", "4", "--steps", "2", *TINY)
    status, said = fission("sft", *typed, "--output", tmp_path / "run")
    assert status == 0, said
    status, said = fission("reproduce", tmp_path / "run", "--json")
    assert status == 0, said
    found = json.loads(said[said.index("{") :])
    assert (found["equal"], found["steps"], found["same_weights"], found["differences"]) == (True, 2, True, [])
    status, said = fission("report", tmp_path / "run")
    assert status == 2
    assert "holds a supervised run, which has no such page: read its summary.md" in " ".join(said.split())
