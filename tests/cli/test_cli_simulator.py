"""`fission simulator` from end to end, and a learned simulator in the training loop."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fission_grpo.cli import app
from fission_grpo.files import read_jsonl

SMALL = (
    *("synthetic.count=4", "synthetic.apis=[TradingBot]", "synthetic.tools=[2, 3]", "trainer.steps=2"),
    *("trainer.queries=3", "trainer.group_size=4", "rollouts.max_tokens=48", "rollouts.max_turns=2"),
    *("fission.contexts=1", "fission.group_size=2", "trainer.horizon=turn"),
)


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path) -> Iterator[None]:
    with chdir(tmp_path):
        yield


def fission(*arguments: str) -> Any:
    return CliRunner().invoke(app, arguments)


def test_records_are_made_checked_and_audited() -> None:
    made = json.loads(fission("simulator", "data", "-o", "records.jsonl", "--count", "60", "--json").stdout)
    assert made["records"] == 60 == sum(made["by_split"].values())
    checked = json.loads(fission("data", "check", "records.jsonl", "--json").stdout)
    assert checked == {"file": "records.jsonl", "ok": True, "problems": []}
    audited = json.loads(fission("simulator", "audit", "records.jsonl", "--json").stdout)
    assert audited["simulator"] == "rules"
    assert audited["leak"]["k"] == 0
    assert audited["records"] == made["by_split"]["test"]


def test_a_broken_line_is_named() -> None:
    assert fission("simulator", "data", "-o", "records.jsonl", "--count", "5").exit_code == 0
    with Path("records.jsonl").open("a", encoding="utf-8") as file:
        file.write("no json\n")
    checked = fission("data", "check", "records.jsonl")
    assert checked.exit_code == 1
    assert "6" in checked.stdout


def test_the_free_simulators_stand_side_by_side() -> None:
    shown = fission("simulator", "try").stdout
    assert [name for name in ("passthrough", "static", "rules") if name in shown] == ["passthrough", "static", "rules"]


def test_a_failed_call_is_drawn_from_ones_own_tasks_and_records_have_been_drawn_already(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fission("init", "shop")
    monkeypatch.setattr(sys, "path", [*sys.path])
    Path("shop/shop.py").rename("tried_shop.py")  # a name that no other test imports
    own = ("data=shop/tasks.jsonl", "environments.shop=tried_shop:Shop")
    shown = fission("simulator", "try", *own)
    assert shown.exit_code == 0, shown.output
    assert "ticket" in shown.stdout.partition("passthrough")[0]
    fission("simulator", "data", "-o", "records.jsonl", "--count", "5")
    for words in (("try", "--records", "records.jsonl"), ("audit", "records.jsonl")):
        refused = fission("simulator", *words, *own)
        assert refused.exit_code == 2
        assert "fission simulator data -o own.jsonl data=shop/tasks.jsonl" in " ".join(refused.stderr.split())


def test_a_server_that_is_not_there_stops_training_before_it_begins() -> None:
    alone = fission("train", *SMALL, "simulator=endpoint", "--output", "run")
    assert (alone.exit_code, "simulator_endpoint.server" in alone.stderr) == (2, True)
    server = ("simulator_endpoint.server.url=http://127.0.0.1:9/v1", "simulator_endpoint.server.model=m")
    dead = fission("train", *SMALL, "simulator=endpoint", *server, "simulator_endpoint.server.attempts=1")
    assert (dead.exit_code, "127.0.0.1:9" in dead.stderr) == (2, True)
    assert not Path("run").exists()


def test_a_model_writes_feedback_in_training_and_the_traces_say_so() -> None:
    """`nano` was never taught to write feedback: what it says is checked, and `rules` steps in where nothing comes."""
    run = fission("train", *SMALL, "simulator=model", "simulator_model.max_tokens=12", "--output", "run", "--json")
    assert run.exit_code == 0, run.output
    metrics = list(read_jsonl(Path("run/metrics.jsonl")))
    fallbacks = sum(value for line in metrics for name, value in line.items() if name.startswith("simulator/fallback/"))
    assert sum(line["simulator/cases"] for line in metrics) == fallbacks + sum(
        line["simulator/written"] for line in metrics
    )
    families = [line for line in read_jsonl(Path("run/traces.jsonl")) if line["kind"] == "fission"]
    assert families
    for family in families:
        assert family["feedback_leakage"] in {"blind", "clean", "leaked"}
        assert family["feedback_origin"] in {"model", "rules", "static"}
        assert (family["feedback_fallback"] is None) == (family["feedback_origin"] == "model")
        assert family["feedback_cost"].keys() == {"prompt_tokens", "tokens", "seconds"}
