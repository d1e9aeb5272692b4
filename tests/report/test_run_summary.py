"""What a training ends with, from the files of its run."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.image
import pytest
from page_runs import family, row, write_run
from typer.testing import CliRunner

from fission_grpo.cli import app
from fission_grpo.report import run_summary
from fission_grpo.report.run_summary import write_run_summary


def test_a_summary_says_what_changed_and_what_it_cost(tmp_path: Path) -> None:
    """Two steps: both explored trajectories of each fail; 0 of 2 recoveries are right at first, 2 of 2 at last."""
    traces = [*family(0, rescued=0), *family(1, rescued=2)]
    run = write_run(tmp_path / "mine", traces, rows=[row(0), row(1, frac_reward_zero_std=1.0)])
    told = write_run_summary(run)
    assert (run / "summary.md").read_text(encoding="utf-8") == told
    assert told.startswith("# mine: 2 steps\n\nmodel nano, objective grpo, fission off, seed 3\n")
    assert "recoveries" not in told.split("First and last steps")[0]  # whole dialogues: its own errors speak
    right = next(line for line in told.splitlines() if line.startswith("| Recoveries that are right"))
    assert "(0/2)" in right
    assert "(2/2)" in right
    assert "- **Dead groups**: 50 % of the exploration groups of the last 2 steps had no gradient" in told
    assert "8 s; 80 tokens were sampled; 20 were trained on, shared prefixes once (3.0 times" in told
    assert "fission (step 1): 2/2 right" in told or "fission (step 0): 0/2 right" in told
    assert told.endswith(f"`fission report {run}`\n")
    for name in ("curves.png", "tree.png"):
        picture = matplotlib.image.imread(run / name)
        for edge in (picture[:4], picture[-4:], picture[:, :4], picture[:, -4:]):
            assert (edge[..., :3] == 1).all(), f"{name}: something is cut off"


def test_traces_that_are_too_many_are_left_to_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "mine", [*family(0), *family(1)])
    monkeypatch.setattr(run_summary, "MOST_TRACES", 10)
    told = write_run_summary(run)
    assert "Nothing is said of its trajectories" in told
    assert not (run / "tree.png").exists()


def test_training_ends_with_its_summary(tmp_path: Path) -> None:
    tiny = (
        *("synthetic.count=4", "synthetic.apis=[TwitterAPI]", "synthetic.tools=[2, 3]", "trainer.steps=2"),
        *("trainer.queries=2", "trainer.group_size=2", "rollouts.max_tokens=8", "rollouts.max_turns=2"),
    )
    asked = ["train", "--model", "nano", *tiny, "--output", str(tmp_path / "run")]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    summary = (tmp_path / "run" / "summary.md").read_text(encoding="utf-8")
    assert f"{summary}\npolicy in {tmp_path / 'run' / 'policy'}; evaluate it with: fission eval heldout" in done.stdout
    again = CliRunner().invoke(app, [*asked, "--resume", "--json"])
    assert json.loads(again.stdout)["summary"] == str(tmp_path / "run" / "summary.md")
