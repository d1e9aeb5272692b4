"""`fission data convert`: rows of others in, a file that `fission data check` has nothing against out."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from click.testing import Result
from typer.testing import CliRunner

from fission_grpo.cli import app
from fission_grpo.environments.bfcl.official import records

ROW = {
    "query": "How is Bern?",
    "tools": '[{"name": "weather", "parameters": {"city": {"type": "str"}}}]',
    "answers": '[{"name": "weather", "arguments": {"city": "Bern"}}]',
}


def fission(*words: str) -> Result:
    return CliRunner().invoke(app, words)


def refused(*words: str) -> str:
    """What is said of input that is wrong."""
    result = fission(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    return " ".join(result.stderr.split())


@pytest.fixture(autouse=True)
def _there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def save(name: str, rows: Iterable[Any]) -> str:
    Path(name).write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return name


def test_what_is_converted_passes_the_check() -> None:
    result = fission("data", "convert", save("rows.jsonl", [ROW, {**ROW, "answers": "none"}]), "-o", "new/tasks.jsonl")
    assert result.exit_code == 0, result.output
    assert "1 tasks from 2 rows (xlam): 1 ask for calls, 0 for words, 0 live in a world" in result.stdout
    assert "1  the answers are no calls" in result.stdout
    assert "line 2: the answers are no calls" in result.stderr
    *_, last = result.stdout.splitlines()
    assert fission(*last.partition("fission ")[2].split()).exit_code == 0


def test_json_has_all_of_it() -> None:
    rows = save("rows.json", [ROW, {**ROW, "answers": "none"}])
    told = json.loads(fission("data", "convert", rows, "-o", "tasks.jsonl", "--from", "xlam", "--json").stdout)
    assert {key: told[key] for key in ("form", "rows", "tasks", "ask_for_calls", "left_out", "reasons")} == {
        "form": "xlam",
        "rows": 2,
        "tasks": 1,
        "ask_for_calls": 1,
        "left_out": 1,
        "reasons": {"the answers are no calls": 1},
    }


def test_official_test_entries_become_no_tasks() -> None:
    name = "BFCL_v4_multi_turn_base.json"
    Path("possible_answer").mkdir()
    save(f"possible_answer/{name}", list(records(f"possible_answer/{name}"))[:3])
    said = refused("data", "convert", save(name, list(records(name))[:3]), "-o", "t.jsonl")
    assert said.count("multi_turn_base_") == 3
    assert said.count("it is an official test entry") == 3
    assert not Path("t.jsonl").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("rows.jsonl", "--from", "trl"), "unknown form 'trl'; expected one of bfcl-multi-turn"),
        (("none.jsonl",), "none.jsonl cannot be read: No such file"),
        (("rows.csv",), "got a file '.csv', expected one of .jsonl, .json, .parquet"),
        (("some/where",), "Offline: where there is a network, `hf download some/where --repo-type dataset"),
        (("some where",), "neither a file nor the name of a data set"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_sentence(
    words: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    save("rows.jsonl", [ROW])
    save("rows.csv", [])
    assert said in refused("data", "convert", *words, "-o", "t.jsonl")


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is not None, reason="pyarrow is installed")
def test_parquet_without_pyarrow_says_what_to_do() -> None:
    said = refused("data", "convert", save("rows.parquet", [ROW]), "-o", "t.jsonl")
    assert "pip install pyarrow, or save the table as JSON Lines" in said


def test_parquet_is_read_where_pyarrow_is() -> None:
    parquet, arrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    parquet.write_table(arrow.Table.from_pylist([ROW, {**ROW, "query": "And now?"}]), "rows.parquet")
    told = json.loads(fission("data", "convert", "rows.parquet", "-o", "t.jsonl", "--json").stdout)
    assert (told["tasks"], told["form"]) == (2, "xlam")
