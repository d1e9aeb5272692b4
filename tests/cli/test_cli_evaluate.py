"""The evaluation commands from end to end, with `nano` on a few entries."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from bfcl_play import run_entries
from typer.testing import CliRunner

from fission_grpo.agents.base import Agent, AgentFault, Answer, Conversation
from fission_grpo.cli import app
from fission_grpo.environments.bfcl.entries import bfcl_entries
from fission_grpo.errors import ConfigError, PolicyError
from fission_grpo.evaluation.bfcl.records import read_bfcl
from fission_grpo.evaluation.protocols.bfcl import ToolRelease
from fission_grpo.evaluation.session import MAX_CONSECUTIVE_FAILURES, require_free, reserve
from fission_grpo.models.catalog import find_model

NANO = ("--model", "nano", "--max-tokens", "16")


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path) -> Iterator[None]:
    with chdir(tmp_path):
        yield


def fission(*arguments: str) -> Any:
    return CliRunner().invoke(app, arguments)


def test_bfcl_leaves_everything_that_compare_rescore_and_the_official_scorer_read() -> None:
    asked = (*NANO, "--mode", "compact", "--categories", "base,miss_param", "--limit", "2")
    played = fission("eval", "bfcl", *asked, "--output", "one", "--json")
    assert played.exit_code == 0, played.output
    told = json.loads(played.stdout)
    assert told == json.loads(Path("one/score.json").read_text())
    assert told["departures"] == ["prompt mode compact", "at most 16 tokens an answer, officially 4096"]
    assert {path.name for path in Path("one").iterdir()} == {
        *("settings.json", "traces.jsonl", "score.json", "summary.md", "recovery.png", "flow.png", "official"),
        "provenance.jsonl",
    }
    assert len(list(Path("one/official").rglob("*_result.json"))) == 2
    assert "Not an official score" in Path("one/summary.md").read_text()

    refused = fission("eval", "bfcl", *asked, "--output", "one")
    assert (refused.exit_code, "--resume" in refused.stderr) == (2, True)
    again = fission("eval", "bfcl", *asked, "--output", "one", "--resume", "--json")
    assert json.loads(again.stdout) == told

    judged = fission("eval", "rescore", "one", "--json")
    assert (judged.exit_code, json.loads(judged.stdout)["changed"]) == (0, [])
    Path("two").mkdir()
    Path("two/traces.jsonl").write_bytes(Path("one/traces.jsonl").read_bytes())
    compared = json.loads(fission("compare", "one", "two", "--json").stdout)
    (contrast,) = compared["contrasts"]
    assert contrast["entries"] == 4
    assert all(metric["difference"] in (0, None) for metric in contrast["metrics"])


def test_a_window_that_is_too_small_is_not_taken_for_a_bad_model() -> None:
    played = fission("eval", "bfcl", *NANO, "--categories", "base", "--limit", "1", "--output", "small")
    assert played.exit_code == 0, played.output
    assert "1 of 1 entries are wrong because the dialogue could not be put before the model" in played.stdout
    assert "context window of 2048" in played.stdout


def test_probes_play_three_errors_for_each_of_the_limit() -> None:
    played = fission("eval", "probes", *NANO, "--limit", "2", "--output", "probes", "--json")
    assert played.exit_code == 0, played.output
    told = json.loads(played.stdout)
    assert told["fixed_errors"]["final"][1] == 2
    assert told["blind_spot"]["own"][1] == told["blind_spot"]["foreign"][1] == 2
    assert len(Path("probes/traces.jsonl").read_text().splitlines()) == 6
    assert "Blind spot" in Path("probes/summary.md").read_text()


def test_a_dry_run_says_how_official_it_would_be_and_leaves_nothing() -> None:
    asked = fission("eval", "bfcl", "--model", "nano", "--output", "none", "--baseline", "wait", "--dry-run")
    assert json.loads(asked.stdout) == {"entries": 800, "departures": ["baseline wait"]}
    assert not Path("none").exists()


def test_the_old_name_of_a_baseline_still_works_and_says_that_it_goes() -> None:
    asked = fission("eval", "bfcl", "--model", "nano", "--output", "none", "--aid", "wait", "--dry-run")
    assert json.loads(asked.stdout) == {"entries": 800, "departures": ["baseline wait"]}
    assert "--aid is now called --baseline" in asked.stderr
    assert "--aid" not in fission("eval", "bfcl", "--help").stdout


def test_a_folder_of_an_older_version_can_be_gone_on_with() -> None:
    asked = (
        "eval",
        "probes",
        "--model",
        "nano",
        "--max-tokens",
        "1",
        "--limit",
        "1",
        "--baseline",
        "wait",
        "--output",
        "old",
    )
    assert fission(*asked).exit_code == 0
    settings = Path("old/settings.json")
    held = json.loads(settings.read_text())
    assert held["agent"].pop("chat_template") is held["agent"].pop("precision") is None
    assert held["agent"]["aid"] == "wait"
    settings.write_text(json.dumps(held))
    lines = Path("old/traces.jsonl").read_text().splitlines(keepends=True)
    Path("old/traces.jsonl").write_text("".join(lines[:-1]))
    again = fission(*asked, "--resume")
    assert again.exit_code == 0, again.output
    assert len(Path("old/traces.jsonl").read_text().splitlines()) == len(lines)


def test_an_evaluation_is_the_same_by_the_former_names_of_its_settings(tmp_path: Path) -> None:
    reserve(tmp_path, {"size": 3, "synthetic": {"moments": True}})
    require_free(tmp_path, {"size": 3, "synthetic": {"decision_positions": True}}, resume=True)
    with pytest.raises(ConfigError, match=r"other settings \(synthetic\.decision_positions\)"):
        require_free(tmp_path, {"size": 3, "synthetic": {"decision_positions": False}}, resume=True)


def test_a_run_brings_its_precision_and_a_folder_along() -> None:
    run = Path("run")
    (run / "policy").mkdir(parents=True)
    (run / "config.yaml").write_text("precision: bf16\nlora: {rank: 2}\n")
    asked = fission("eval", "probes", "--run", "run", "--limit", "1")
    assert (asked.exit_code, "run/policy holds no model" in asked.stderr) == (2, True)
    weights = Path(find_model("nano").folder)
    for file in weights.iterdir():
        (run / "policy" / file.name).write_bytes(file.read_bytes())
    played = fission("eval", "probes", "--run", "run", "--max-tokens", "1", "--limit", "1")
    assert played.exit_code == 0, played.output
    agent = json.loads((run / "probes" / "settings.json").read_text())["agent"]
    assert (agent["model"], agent["precision"]) == ("run/policy", "bf16")


@pytest.mark.parametrize(
    "options, remedy",
    [
        (("--mode", "official"), "official-qwen-fc, chat-tools, compact"),
        (("--baseline", "hints"), "none, structured-errors, wait"),
        (("--categories", "base,live"), "base, miss_func, miss_param, long_context"),
        (("--endpoint", "http://127.0.0.1:9/v1", "--mode", "compact"), "use chat-tools"),
        (("--lenient", "--mode", "compact"), "official-qwen-fc only"),
    ],
)
def test_mistakes_cost_nothing_and_name_the_way_out(options: tuple[str, ...], remedy: str) -> None:
    found = fission("eval", "bfcl", "--model", "nano", "--output", "none", *options)
    assert found.exit_code == 2
    assert remedy in found.stderr
    assert not Path("none").exists()


class _Dead(Agent):
    name, width = "dead", 4

    def answer(self, dialogues: Any, *, seed: int) -> list[Answer | AgentFault]:
        return [self._fault(dialogue) for dialogue in dialogues]

    def _fault(self, dialogue: Conversation) -> AgentFault:
        return AgentFault(reason="connection refused")


def test_a_dead_server_is_not_asked_800_times(tmp_path: Path) -> None:
    traces = tmp_path / "traces.jsonl"
    with pytest.raises(PolicyError, match="in a row"):
        run_entries(bfcl_entries("base"), _Dead(), release=ToolRelease.TOOLS, traces=traces)
    assert len(read_bfcl(traces)) == MAX_CONSECUTIVE_FAILURES
