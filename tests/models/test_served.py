"""A model whose tokenizer is here and whose weights are behind a server that speaks vLLM's protocol."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted_server import Handler, Scripted, answer, serving
from typer.testing import CliRunner

from fission_grpo.agents.choice import AgentChoice
from fission_grpo.cli import app
from fission_grpo.errors import ConfigError
from fission_grpo.models.catalog import load_chat
from fission_grpo.models.served import open_served_model

WINDOW = 2048


def probed(handler: Handler) -> None:
    """Reads a text with nano's tokenizer, and is certain of what follows."""
    read = load_chat("nano").renderer.encode(handler.asked["prompt"])
    said = {
        "token_ids": [5],
        "prompt_token_ids": read,
        "logprobs": {"token_logprobs": [0.0]},
        "finish_reason": "length",
    }
    answer(200, {"choices": [said]})(handler)


def nano(window: int) -> Any:
    return serving(probed, models={"data": [{"id": "nano", "max_model_len": window}]})


@pytest.fixture
def server() -> Iterator[Scripted]:
    with nano(WINDOW) as running:
        yield running


def test_the_window_is_the_models_own(server: Scripted) -> None:
    assert open_served_model("nano", server.url).policy.context_window == WINDOW


def test_a_smaller_window_of_the_server_is_taken_and_told() -> None:
    told = "holds 1024 tokens of a dialogue, the model itself 2048; start the server with --max-model-len 2048"
    with nano(1024) as server, pytest.warns(UserWarning, match=told):
        assert open_served_model("nano", server.url).policy.context_window == 1024


def test_an_agent_keeps_its_settings_as_they_were_without_a_server() -> None:
    assert "server" not in AgentChoice(model="nano").saved()
    assert AgentChoice(model="nano", server="http://localhost:8000").saved()["server"] == "http://localhost:8000"


def test_an_endpoint_and_a_server_are_two_things() -> None:
    with pytest.raises(ConfigError, match="give --endpoint or --server, not both"):
        AgentChoice(model="nano", endpoint="http://a", server="http://b")
    with pytest.raises(ConfigError, match=r"temperature 0\.001: vLLM would sample at 0\.01"):
        AgentChoice(model="nano", server="http://b", temperature=0.001)


@pytest.mark.parametrize(
    "command", [["heldout"], ["bfcl", "--limit", "1"], ["probes", "--limit", "1"]], ids=lambda c: c[0]
)
def test_a_wrong_server_is_refused_before_anything_is_written(command: list[str], tmp_path: Path) -> None:
    models = {"data": [{"id": "another", "max_model_len": WINDOW}]}
    with serving(probed, models=models) as server:
        where = ["--model", "nano", "--server", server.url, "--output", str(tmp_path / "served")]
        refused = CliRunner().invoke(app, ["eval", *command, *where])
    assert isinstance(refused.exception, SystemExit | ConfigError)
    assert "serves 'another', expected 'nano'" in refused.stderr + str(refused.exception)
    assert not (tmp_path / "served").exists()
