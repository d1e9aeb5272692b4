"""Inside TRL: rows are our trajectories, the update is TRL's, and both agree with our own loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DeepSpeedPlugin, FullyShardedDataParallelPlugin
from tiny_trl import FISSION, OFF, Counter, Notes, call, config, model, rows, scripted, tiny_trainer, tokenizer, weights
from trl import GRPOTrainer

from fission_grpo.algorithm.advantages import Scale
from fission_grpo.algorithm.groups import Group
from fission_grpo.algorithm.losses import ObjectiveName
from fission_grpo.algorithm.source import FissionSettings
from fission_grpo.engines.trl import FissionGRPOTrainer, contract
from fission_grpo.engines.trl import policy as policies
from fission_grpo.engines.trl.limits import require_exact, require_whole_weights
from fission_grpo.errors import ConfigError
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
        train_dataset=rows(8),
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


def test_what_is_invalid_weighs_nothing_and_what_errs_is_fissioned(tmp_path: Path) -> None:
    """A fault of the world, a malformed call and a tool that raises, of four siblings; the fourth is right."""
    seen: list[Group] = []
    policy = scripted(call(13), "<tool_call>\n{", call(-1), call(1), after_error=call(1))
    trainer = tiny_trainer(
        tmp_path,
        fission=FISSION,
        given={"policy": policy, "on_step": lambda step, groups: seen.extend(groups), "reward_funcs": None},
        train_dataset_rows=1,
        per_device_train_batch_size=4,
        max_completion_length=40,
        max_tool_calling_iterations=0,
    )
    trainer.train()
    (exploration, *recoveries) = seen
    burst, malformed, raised, right = exploration.members
    assert (burst.reward, burst.trajectory.fault) == (None, "the counter burst")
    assert [member.failure and member.failure.error for member in (malformed, raised)] == ["E0", "E5"]
    assert right.reward is not None
    assert (right.reward.total, right.success) == (1.0, True)
    # Rewards of the valid ones are 0, 0 and 1; the fault moves nothing.
    assert exploration.advantages(Scale.NONE).tolist() == pytest.approx([0, -1 / 3, -1 / 3, 2 / 3])
    assert sorted(group.context.error for group in recoveries) == ["E0", "E5"]
    assert all(member.success for group in recoveries for member in group.members)
    batch = trainer._buffered_inputs[0]
    trained = (batch["completion_mask"] * batch["tool_mask"]).sum(dim=1)
    by_sampled = [sum(m.trajectory.sampled) * (m.reward is not None) for group in seen for m in group.members]
    assert sorted(trained.tolist()) == sorted(by_sampled)  # 4 + 2 * 3 rows
    assert trained.tolist().count(0) == 1
    (logged, *_) = trainer.state.log_history
    assert (logged["masked"], logged["reward"], logged["fission/success"]) == (1, pytest.approx(1 / 3), 1)
    assert logged["rewards/Counter/mean"] == pytest.approx(1 / 3)


def test_tokens_reach_trl_as_they_were_sampled(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, max_tool_calling_iterations=2)
    trainer.train()
    batch = trainer._buffered_inputs[0]
    found = []
    for row in range(len(batch["prompt_ids"])):
        prompt, said = batch["prompt_mask"][row].bool(), batch["completion_mask"][row].bool()
        ids = [*batch["prompt_ids"][row][prompt].tolist(), *batch["completion_ids"][row][said].tolist()]
        sampled = [*[0] * int(prompt.sum()), *batch["tool_mask"][row][said].tolist()]
        found.append((ids, sampled, batch["advantages"][row].item()))
    rows = [(list(row.ids), [int(one) for one in row.sampled], row.advantage) for row in trainer._handover.rows]
    assert sorted(found) == sorted(rows)


def test_rows_are_as_many_in_every_step_whether_or_not_recoveries_are_due(tmp_path: Path) -> None:
    """A trigger that the first steps do not reach: the rows of recoveries are there, and weigh nothing."""
    patient = FISSION.model_copy(update={"trigger": 32, "capacity": 32})
    trainer = tiny_trainer(tmp_path, fission=patient, gradient_accumulation_steps=4)
    trainer.train()
    assert trainer.state.log_history[0]["fission/contexts"] == 0
    assert [len(part["prompt_ids"]) for part in trainer._buffered_inputs] == [10] * 4  # 4 * 8 + 2 * 3 = 38, made 40


def test_evaluation_samples_judges_and_forgets(tmp_path: Path) -> None:
    trainer = tiny_trainer(
        tmp_path,
        given={"eval_dataset": rows(2)},
        eval_strategy="steps",
        eval_steps=1,
        per_device_eval_batch_size=4,
        num_generations_eval=2,
    )
    trainer.train()
    observed = trainer.fission.source.count.observed
    evaluated = [line for line in trainer.state.log_history if "eval_reward" in line]
    assert len(evaluated) == 1
    assert trainer.num_generations_eval == 2
    again = trainer.evaluate()
    assert {key: again[key] for key in ("eval_reward", "eval_rollouts")} == {
        key: evaluated[0][key] for key in ("eval_reward", "eval_rollouts")
    }
    assert again["eval_rollouts"] == 4
    assert trainer.fission.source.count.observed == observed


def test_lora_trains_adapters_alone(tmp_path: Path) -> None:
    from peft import LoraConfig

    adapters = LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
    trainer = tiny_trainer(tmp_path, given={"peft_config": adapters}, beta=0.1, max_steps=2)
    before = weights(trainer)
    trainer.train()
    changed = {name for name, weight in weights(trainer).items() if not torch.equal(weight, before[name])}
    assert changed
    assert all("lora_" in name for name in changed)
    assert trainer.state.log_history[1]["kl"] > 0


def test_another_architecture_gradient_checkpointing_and_half_precision_forward(tmp_path: Path) -> None:
    """What TRL switches on by itself: bf16 autocast and checkpointing."""
    trainer = tiny_trainer(tmp_path, policy_model=model("qwen3"), bf16=True, gradient_checkpointing=True, max_steps=2)
    trainer.train()
    assert trainer.state.log_history[1]["grad_norm"] > 0


def test_reward_functions_see_siblings_with_their_columns_and_worlds(tmp_path: Path) -> None:
    calls: list[dict[str, Any]] = []

    def judged(prompts: Any, completions: Any, environments: Any, target: Any, log_extra: Any, **rest: Any) -> Any:
        calls.append({"prompts": prompts, "completions": completions, "target": target, "rest": rest})
        log_extra("count", [one.count for one in environments])
        rest["log_metric"]("spread", float(len(completions)))
        return [None if one.count == 2 else float(one.count) for one in environments]

    async def slow(completions: Any, **rest: Any) -> list[float]:
        return [0.5 for _ in completions]

    trainer = tiny_trainer(
        tmp_path,
        fission=OFF,
        given={"policy": scripted(call(1), call(2)), "reward_funcs": [judged, slow]},
        train_dataset_rows=1,
        per_device_train_batch_size=4,
        max_completion_length=40,
        reward_weights=[2.0, 1.0],
        log_completions=True,
    )
    trainer.train()
    (seen,) = calls
    assert seen["target"] == [1, 1, 1, 1]
    assert seen["prompts"][0] == [{"role": "user", "content": "Count. Reach 1."}]
    assert [message["role"] for message in seen["completions"][0]] == ["assistant", "tool", "assistant"]
    assert seen["completions"][0][1]["content"] == "1"
    assert seen["rest"]["trainer_state"] is trainer.state
    (logged, *_) = trainer.state.log_history
    # Twice the count of 1, half a point, and the world's own point for a count of 1: 3.5. At a count of 2: 0.5.
    assert (logged["reward"], logged["rewards/judged/mean"], logged["spread"]) == (2.0, 1.0, 4.0)
    table = pandas.read_parquet(tmp_path / "completions" / "completions_00001.parquet")
    assert table["count"].tolist() == [1, 2, 1, 2]
    assert table["advantage"].tolist() == pytest.approx([1, -1, 1, -1], abs=1e-3)


def refused(folder: Path, fission: FissionSettings = FISSION, **changes: Any) -> str:
    given = changes.pop("given", {})
    with pytest.raises(ConfigError) as caught:
        tiny_trainer(folder, fission=fission, given=given, **changes)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"loss_type": "bnpo", "gradient_accumulation_steps": 2}, "choose dapo, or steps_per_generation=1"),
        ({"loss_type": "grpo", "entropy_coef": 0.1}, "entropy bonus"),
        ({"scale_rewards": "batch"}, "choose group or none"),
        ({"multi_objective_aggregation": "normalize_then_sum"}, "choose sum_then_normalize"),
        ({"top_p": 0.9}, "top_p=0.9 is not known to our sampler"),
        ({"given": {"train_dataset": rows(1)}}, "got 1 rows, and each step of 1 process(es) explores 2"),
        ({"given": {"train_dataset": None}, "max_steps": -1}, "max_steps says how long the run is"),
        ({"given": {"train_dataset": None, "environment_factory": {"a": Counter}}}, "a column `environment`"),
        ({"use_vllm": True}, "none is installed here; pip install 'trl[vllm]'"),
        ({"given": {"rollout_func": lambda prompts, trainer: {}}}, "leave it out"),
        ({"given": {"reward_funcs": "some/model"}}, "is a reward model"),
        ({"given": {"reward_funcs": None, "environment_factory": None}}, "nothing gives a reward"),
        ({"given": {"tasks": []}}, "tasks of ours are judged by `judge`"),
    ],
)
def test_what_cannot_be_exact_is_refused_in_one_sentence(
    tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    assert sentence in refused(tmp_path, **changes)


@pytest.mark.parametrize(
    ("fission", "sentence"),
    [({"own_step": True}, "two updates a step"), ({"pool": 4}, "explores all tasks before the first step")],
)
def test_kinds_of_fission_that_trl_has_no_place_for_are_refused(
    tmp_path: Path, fission: dict[str, Any], sentence: str
) -> None:
    assert sentence in refused(tmp_path, FISSION.model_copy(update=fission))


def test_the_model_is_not_sampled_from_under_fsdp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """accelerate offers FSDP on accelerators only: its plugin is put where the trainer finds it there."""
    monkeypatch.setattr(AcceleratorState, "fsdp_plugin", FullyShardedDataParallelPlugin(fsdp_version=2), raising=False)
    assert "FSDP spreads the weights over processes" in refused(tmp_path)
    assert tiny_trainer(tmp_path, given={"policy": scripted("Done.")}).is_fsdp_enabled


@pytest.mark.parametrize("stage", [2, 3])
def test_the_model_is_sampled_from_under_zero_2_and_not_under_zero_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: int
) -> None:
    trainer = tiny_trainer(tmp_path)
    monkeypatch.setattr(AcceleratorState, "deepspeed_plugin", DeepSpeedPlugin(zero_stage=stage))
    if stage == 2:
        require_whole_weights(trainer)
        return
    with pytest.raises(ConfigError, match=r"DeepSpeed ZeRO-3 spreads .*; set use_vllm=True, or use DDP or ZeRO-2"):
        require_whole_weights(trainer)


def test_weights_are_not_sent_to_a_server_from_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before TRL loads a model, and waits for the server."""
    monkeypatch.setattr(policies, "is_vllm_available", lambda: True)
    sentence = "over NCCL, from a CUDA device, and this process has cpu; leave use_vllm out, or give policy="
    assert sentence in refused(tmp_path, use_vllm=True, vllm_mode="server")


def test_another_release_of_trl_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "TESTED", "1.15.2")
    assert "is installed, and this engine is proved with 1.15.2" in refused(tmp_path)


def test_a_trl_with_another_method_is_refused_by_the_methods_name() -> None:
    class Renamed(GRPOTrainer):
        def _calculate_rewards(self, batch: Any) -> Any: ...

    with pytest.raises(ConfigError, match="_calculate_rewards takes batch and not inputs, prompts"):
        contract.require_overridden(Renamed)


@pytest.mark.parametrize("missing", ["tool_mask", "advantages"])
def test_a_batch_without_what_we_rely_on_is_refused(tmp_path: Path, missing: str) -> None:
    trainer = tiny_trainer(tmp_path)
    trainer.train()
    batch = dict(trainer._buffered_inputs[0])
    contract.require_batch(batch, rows=14)
    del batch[missing]
    with pytest.raises(ConfigError, match=f"has no {missing}"):
        contract.require_batch(batch, rows=14)


def test_each_process_does_its_share() -> None:
    whole = FissionSettings(contexts=4, trigger=2, capacity=8)
    share = whole.share_of(2)
    assert (share.contexts, share.trigger, share.capacity) == (2, 1, 4)
    assert FissionSettings(contexts=4, capacity=8).share_of(4).trigger == 1
    with pytest.raises(ConfigError, match="contexts=4 cannot be shared out among 3 processes; choose a multiple of 3"):
        whole.share_of(3)


def test_nothing_of_trl_is_replaced_by_chance() -> None:
    """A method of ours that TRL or transformers has, too, would be called by them."""
    ours = {name for name in vars(FissionGRPOTrainer) if not name.startswith("__")}
    theirs = {name for kind in GRPOTrainer.__mro__ for name in vars(kind)}
    assert ours & theirs == {*contract.OVERRIDDEN}


def test_a_group_must_stay_in_one_process(tmp_path: Path) -> None:
    args = config(tmp_path)
    args.per_device_train_batch_size = 6  # two processes of six rows would hold three groups of four
    with pytest.raises(ConfigError, match="steps_per_generation = 6, expected a multiple of num_generations = 4"):
        require_exact(args, FISSION, samples_itself=True)
