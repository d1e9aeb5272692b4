"""Rewards of the user's own in a run, and `fission explain`: the number that was trained on, added up again."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from fission_grpo.cli import app
from fission_grpo.files import read_jsonl

REWARDS = '''
def brief(completions, **columns):
    """One point less for each message."""
    return [-float(len(one)) for one in completions]
'''
SMALL = ("trainer.steps=1", "trainer.queries=4", "trainer.group_size=4", "fission.contexts=2", "fission.group_size=3")


def fission(*words: str) -> Result:
    return CliRunner().invoke(app, words)


@pytest.fixture(scope="module", autouse=True)
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project whose run has a reward function, trained for one step."""
    path, modules = [*sys.path], {"shop", "rewards"}
    for name in modules:
        sys.modules.pop(name, None)
    with chdir(tmp_path_factory.mktemp("project")):
        fission("init", "shop")
        with chdir("shop"):
            Path("rewards.py").write_text(REWARDS, encoding="utf-8")
            written = ("reward.functions=rewards:brief", "reward.weights=[0.125]", "rollouts.max_turns=3")
            result = fission("train", "--config", "fission.yaml", *SMALL, *written)
            assert result.exit_code == 0, result.output
            yield Path.cwd()
    sys.path[:] = path
    for name in modules:
        sys.modules.pop(name, None)


def traces() -> list[dict[str, Any]]:
    return list(read_jsonl(Path("runs/shop/traces.jsonl")))


def test_a_function_is_a_term_of_metrics_and_traces() -> None:
    (row, *_) = read_jsonl(Path("runs/shop/metrics.jsonl"))
    term = next(name for name in row if name.endswith("rewards/brief"))
    assert row[term] <= -1
    reward = traces()[0]["trajectories"][0]["reward"]
    assert reward["terms"]["brief"]["weight"] == 0.125
    assert reward["terms"]["brief"]["value"] == -float(len(traces()[0]["trajectories"][0]["text"]) + answers())


def answers() -> int:
    """Tool messages of the first trajectory."""
    return sum(len(replies) for replies in traces()[0]["trajectories"][0]["replies"])


def test_every_trajectory_is_explained_to_the_last_digit() -> None:
    for trace in traces():
        result = fission("explain", "runs/shop", trace["group"], "--json")
        for place, told in enumerate(json.loads(result.stdout)):
            one = trace["trajectories"][place]
            assert told["trace"] == f"{trace['group']}:{place}"
            assert (told["reward"], told["advantage"]) == (one["reward"], one["advantage"])
            assert told["sum"] == one["reward"]["total"]
            assert told["scale"] is not None
            if trace["pulse"] == "alive":  # the project's objective divides by nothing
                assert told["scale"] == "none"
                assert one["advantage"] == pytest.approx(one["reward"]["total"] - told["baseline"], rel=1e-5)
            assert told["tokens"]["sampled"] + told["tokens"]["masked"] == len(one["ids"])


def test_a_person_reads_reward_failure_and_feedback() -> None:
    group = next(trace for trace in traces() if trace["parent"])
    parent = group["parent"]
    said = fission("explain", "runs/shop", f"{parent['group']}:{parent['trajectory']}").stdout
    reward = traces_by_name()[parent["group"]]["trajectories"][parent["trajectory"]]["reward"]
    assert f"reward = {reward['total']!r} = 1.0 * the sum of these" in said
    assert "brief" in said
    assert f"became {parent['group']}:{parent['trajectory']}, message {parent['turn']} ({group['error']})" in said
    assert "feedback by rules, leak verdict blind: " in said
    recovery = fission("explain", "runs/shop", f"{group['group']}:0").stdout
    assert f"recovers from {parent['group']}:{parent['trajectory']}" in recovery
    assert "siblings: " in recovery


def traces_by_name() -> dict[str, dict[str, Any]]:
    return {trace["group"]: trace for trace in traces()}


def test_without_a_name_it_says_what_can_be_explained() -> None:
    said = fission("explain", "runs/shop").stdout
    last = [trace["group"] for trace in traces() if trace["step"] == traces()[-1]["step"]]
    assert [line.split()[0] for line in said.splitlines()[:-1]] == last


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("runs/shop", "0/exploration/0.99:0"), "the nearest are 0/exploration/0."),
        (("runs/shop", "0/exploration/0.0:7"), "has 4 trajectories; expected 0/exploration/0.0:0 to"),
        (("runs", "0/exploration/0.0:0"), "runs holds no traces.jsonl"),
    ],
)
def test_a_name_that_is_not_there_is_answered(words: tuple[str, str], said: str) -> None:
    result = fission("explain", *words)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())
