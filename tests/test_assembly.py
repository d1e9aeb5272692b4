"""What a run is put together from."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fission_grpo.assembly import assemble, lay_groundwork
from fission_grpo.config import RunSettings, load_settings, read_overrides
from fission_grpo.errors import ConfigError
from fission_grpo.models.catalog import find_model


def settings(model: Path, *more: str) -> RunSettings:
    small = ("synthetic.count=4", "synthetic.apis=[TradingBot]", "synthetic.tools=[2, 3]", "fission.contexts=2")
    return load_settings(overrides=read_overrides([f"model={model}", *small, *more]))


@pytest.fixture
def weightless(tmp_path: Path) -> Path:
    """The folder of `nano` as a worker of another engine may have it: everything but weights."""
    folder = tmp_path / "nano"
    shutil.copytree(find_model("nano").folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    return folder


def test_the_groundwork_needs_no_weights(weightless: Path) -> None:
    ground = lay_groundwork(settings(weightless))
    assert len(ground.tasks) == 4
    assert ground.source.settings.contexts == 2
    assert ground.chat.prompt(ground.tasks[0].messages, ground.tasks[0].tools)
    with pytest.raises(ConfigError, match=r"the weights in .* cannot be loaded"):
        assemble(settings(weightless))


def test_prompts_without_room_are_refused_before_weights_are_read(weightless: Path) -> None:
    with pytest.raises(ConfigError, match="4 of 4 prompts leave no room for an answer"):
        lay_groundwork(settings(weightless, "rollouts.max_tokens=100000"))
