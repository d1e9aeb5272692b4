"""A key that is planted in the environment is in nothing that a run or an evaluation leaves or prints."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from click.testing import Result
from scripted_server import Scripted, answer, good, serving
from typer.testing import CliRunner

from fission_grpo.cli import app

KEY = "sk-planted-5f1d0c9be7a34462"
TINY = (
    *("synthetic.count=4", "synthetic.apis=[TwitterAPI]", "synthetic.tools=[2, 3]", "trainer.steps=2"),
    *("trainer.queries=2", "trainer.group_size=2", "trainer.checkpoint_every=1", "rollouts.max_tokens=8"),
    *("rollouts.max_turns=2", "fission.contexts=1", "fission.group_size=2", "simulator=endpoint"),
)


@pytest.fixture(autouse=True)
def _planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("OPENAI_API_KEY", "HF_TOKEN", "WANDB_API_KEY"):
        monkeypatch.setenv(name, KEY)


def fission(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def assert_nowhere(*results: Result) -> None:
    """In no file below this folder, by name or content, and in nothing that was said."""
    spelled = (KEY.encode(), base64.b64encode(KEY.encode()), KEY.encode("utf-16-le"), KEY.encode().hex().encode())
    files = [path for path in Path().rglob("*") if path.is_file()]
    assert files
    for path in files:
        content = path.read_bytes()
        assert KEY not in str(path)
        assert not any(form in content for form in spelled), path
    for result in results:
        assert KEY not in result.output


def was_asked(server: Scripted) -> bool:
    """Whether the key was really used: otherwise there would be nothing to find."""
    return any(received.headers.get("Authorization") == f"Bearer {KEY}" for received in server.received)


REPEATS_IT = answer(500, {"error": {"message": f"the key {KEY} is overloaded"}})
"""As some servers do; others say it in their answers."""


def test_a_training_with_a_server_leaves_no_key() -> None:
    with serving(good(), REPEATS_IT, good(f"error: no such tweet, {KEY}"), REPEATS_IT, good(KEY)) as server:
        settings = (f"simulator_endpoint.server.url={server.url}", "simulator_endpoint.server.model=m")
        hasty = ("simulator_endpoint.server.backoff_seconds=0.01", "simulator_endpoint.cache=answers")
        trained = fission("train", "--model", "nano", *TINY, *settings, *hasty, "--output", "run")
        assert trained.exit_code == 0, trained.output
        resumed = fission("train", "--resume", "--output", "run", "trainer.steps=3")
        assert resumed.exit_code == 0, resumed.output
        assert was_asked(server)
    assert_nowhere(trained, resumed)


def test_an_evaluation_behind_a_server_leaves_no_key() -> None:
    with serving(good(), REPEATS_IT, good(f"done, {KEY}"), REPEATS_IT, good("done")) as server:
        asked = ("eval", "probes", "--model", "m", "--endpoint", server.url, "--output", "ev", "--limit", "2")
        played = fission(*asked)
        assert played.exit_code == 0, played.output
        assert was_asked(server)
    assert_nowhere(played)


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_a_refusal_that_repeats_the_key_is_told_without_it(status: int) -> None:
    Path("note").touch()
    with serving(answer(status, {"error": {"message": f"{KEY} is no key"}})) as server:
        refused = fission("eval", "probes", "--model", "m", "--endpoint", server.url, "--output", "ev", "--limit", "1")
        assert refused.exit_code == 2
        assert str(status) in refused.output
        assert was_asked(server)
    assert_nowhere(refused)
