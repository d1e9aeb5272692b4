"""What a run is put together from."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fission_grpo.assembly import assemble, lay_groundwork
from fission_grpo.config import RunSettings, load_settings, read_overrides
from fission_grpo.errors import ConfigError
from fission_grpo.models.catalog import find_model
from fission_grpo.recipes.resolve import recipe
from fission_grpo.rollout import Horizon


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


@pytest.mark.parametrize("arm", ["fission-decision", "grpo"])
def test_the_paper_s_recovery_may_be_asked_for_by_name(arm: str) -> None:
    """The arm brings the exploration that it needs; without fission it means nothing."""
    asked = recipe("nano", {"fission.horizon": "call", "synthetic.count": 3}, arm=arm)
    assert lay_groundwork(asked).source.settings.horizon is Horizon.CALL


def test_whole_turns_do_not_go_with_the_paper_s_recovery() -> None:
    asked = recipe("nano", {"trainer.turn_queries": 2, "synthetic.count": 3}, arm="fission-decision")
    with pytest.raises(ConfigError, match=r"set trainer\.horizon=call and trainer\.turn_queries=0"):
        lay_groundwork(asked)


def test_delta_corr_reaches_the_judge(weightless: Path) -> None:
    assert lay_groundwork(settings(weightless, "fission.delta_corr=0.5")).judge.delta == 0.5
