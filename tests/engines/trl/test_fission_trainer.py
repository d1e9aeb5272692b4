"""Inside TRL: rows are our trajectories, the update is TRL's, and both agree with our own loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from tiny_trl import FISSION, OFF, Notes, config, model, rows, tiny_trainer, tokenizer, weights
from trl import GRPOTrainer

from fission_grpo.algorithm.losses import ObjectiveName
from fission_grpo.policy.base import Sampling
from fission_grpo.training.learner import Learner
from fission_grpo.training.settings import TrainerSettings


def assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], *, atol: float) -> None:
    assert one.keys() == other.keys()
    for name, weight in one.items():
        torch.testing.assert_close(weight, other[name], rtol=0, atol=atol, msg=lambda m, name=name: f"{name}: {m}")


def plain_trl(folder: Path, rollout: dict[str, Any], rewards: list[float], notes: Notes, **changes: Any) -> GRPOTrainer:
    """TRL's own trainer, given the same rows and rewards."""

    def same_rewards(**row: Any) -> list[float]:
        return rewards

    return GRPOTrainer(
        model(),
        reward_funcs=same_rewards,
        args=config(folder, **changes),
        train_dataset=rows(),
        processing_class=tokenizer(),
        rollout_func=lambda prompts, trainer: rollout,
        callbacks=[notes],
    )


@pytest.mark.parametrize("loss", ["dapo", "grpo", "dr_grpo", "bnpo", "cispo", "sapo", "luspo"])
def test_without_fission_it_is_plain_trl(tmp_path: Path, loss: str) -> None:
    changes = {"loss_type": loss, "scale_rewards": "none"}
    ours, theirs, seen = Notes(), Notes(), []
    given = {"callbacks": [ours], "on_step": lambda step, groups: seen.extend(groups)}
    trainer = tiny_trainer(tmp_path, fission=OFF, given=given, **changes)
    trainer.train()
    rewards = [member.reward.total for group in seen for member in group.members]
    assert len(set(rewards)) > 2
    plain = plain_trl(tmp_path, trainer._handover.rollout(), rewards, theirs, **changes)
    plain.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(plain.state.log_history[0]["loss"], abs=1e-6)
    assert any(gradient.abs().max() > 1e-4 for gradient in theirs.gradients[0].values())
    assert_close(ours.gradients[0], theirs.gradients[0], atol=1e-6)


OBJECTIVES = {
    ("dapo", "group"): ObjectiveName.GRPO,
    ("grpo", "none"): ObjectiveName.GRPO_UNSCALED,
    ("dr_grpo", "none"): ObjectiveName.DR_GRPO,
}
"""TRL's loss and scale -> the same of our own loop."""


@pytest.mark.parametrize(("loss", "scale"), OBJECTIVES)
@pytest.mark.parametrize("parts", [1, 2])
def test_a_step_with_fission_is_our_own_loops(tmp_path: Path, loss: str, scale: str, parts: int) -> None:
    """Exploration, recoveries, and rows that make up the number: the gradient and the new weights are the learner's."""
    notes, seen = Notes(), []
    given = {"callbacks": [notes], "on_step": lambda step, groups: seen.extend(groups)}
    batch = {"per_device_train_batch_size": 8 // parts, "gradient_accumulation_steps": parts}
    trainer = tiny_trainer(
        tmp_path,
        fission=FISSION.model_copy(update={"group_size": 4, "trigger": 2, "contexts": 3}),
        given=given,
        loss_type=loss,
        scale_rewards=scale,
        **batch,
    )
    trainer.train()
    assert [group.kind.value for group in seen] == ["exploration"] * 2 + ["fission"] * 3
    settings = TrainerSettings(objective=OBJECTIVES[loss, scale], beta=0.0, learning_rate=1e-3, max_grad_norm=1e3)
    learner = Learner(
        model(), settings, distribution=Sampling(max_tokens=12), longest=12, accelerator=Accelerator(cpu=True)
    )
    learner.update(seen)
    gradients = {name: one.grad for name, one in learner.model.named_parameters() if one.grad is not None}
    assert any(gradient.abs().max() > 1e-4 for gradient in gradients.values())
    assert_close(notes.gradients[0], gradients, atol=1e-6)
    assert_close(
        weights(trainer), dict(learner.model.state_dict()), atol=5e-5
    )  # AdamW divides by the gradient: rounding of the smallest entries grows
