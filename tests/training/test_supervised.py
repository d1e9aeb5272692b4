from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from tiny_policies import (
    ENVIRONMENTS,
    chat,
    gold_message,
    hidden_task,
    naive_logprobs,
    say,
    scripted,
    tasks,
    tiny_model,
)
from transformers import MistralConfig, MistralForCausalLM

from fission_grpo.chat.parse import assistant_message
from fission_grpo.errors import ConfigError
from fission_grpo.files import read_jsonl
from fission_grpo.models.lora import LoraSettings, add_lora
from fission_grpo.models.wide_stream import widen_stream
from fission_grpo.policy.base import Sampling
from fission_grpo.policy.local.hf_policy import HFPolicy
from fission_grpo.rollout import Horizon, open_task, rollout
from fission_grpo.run.folder import RunFolder
from fission_grpo.tasks.dialogue import DONE
from fission_grpo.tasks.synthesis.generator import Mixture, synthesise
from fission_grpo.training.checkpoint import Checkpoints
from fission_grpo.training.dialogues import gold_dialogue, next_message
from fission_grpo.training.supervised import (
    SupervisedRun,
    SupervisedSettings,
    SupervisedTrainer,
    hold_back,
    measured_after,
    supervise,
)
from fission_grpo.tree.logprobs import packed_groups
from fission_grpo.types import Task, TokenRow

(TWO_TURNS,) = synthesise(
    1, 1, apis=("GorillaFileSystem",), tools=(2, 3), mixture=Mixture(calls=(0.0, 1.0, 0.0), two_turns=1.0)
)


def said(row: TokenRow) -> list[str]:
    """The texts of the trained runs of a row, without their end-of-turn tokens."""
    ids = [id_ if trained else -1 for id_, trained in zip(row.ids, row.trained, strict=True)]
    runs = " ".join(map(str, ids)).split("-1")
    return [chat().decode([int(id_) for id_ in run.split()]) for run in runs if run.strip()]


@pytest.mark.parametrize("task", [*tasks(), TWO_TURNS], ids=lambda task: task.id)
def test_a_gold_dialogue_is_the_rollout_of_a_policy_that_knows_the_gold(task: Task) -> None:
    row = gold_dialogue(task, chat=chat(), environments=ENVIRONMENTS)
    answers = [answer for turn in task.gold for answer in (*map(say, turn), DONE)]
    (trajectory,) = rollout(
        [open_task(task, chat=chat(), environments=ENVIRONMENTS)],
        policy=scripted(*answers),
        chat=chat(),
        sampling=Sampling(max_tokens=200),
        horizons=[Horizon.EPISODE],
        max_turns=8,
        seed=0,
    )
    assert trajectory.verdict is not None
    assert trajectory.verdict.ok
    assert (row.ids, row.trained) == (trajectory.ids, trajectory.sampled)
    assert said(row) == answers


def test_a_dialogue_under_way_goes_on_where_it_stands() -> None:
    task = hidden_task()
    whole = gold_dialogue(task, chat=chat(), environments=ENVIRONMENTS)
    first, *rest = task.gold[0]
    outcome = "the reply, as it was recorded"
    begun = replace(
        task,
        messages=(*task.messages, assistant_message([first]), {"role": "tool", "content": outcome}),
        target=task.gold[0][1:2],
    )
    row = gold_dialogue(begun, chat=chat(), environments=ENVIRONMENTS)
    assert said(row) == [*map(say, rest), DONE] == said(whole)[1:]


def test_without_a_world_the_target_is_all_there_is() -> None:
    task = replace(tasks()[0], world=None)
    assert said(gold_dialogue(task, chat=chat(), environments={})) == [say(*task.target)]
    assert said(gold_dialogue(replace(task, target=()), chat=chat(), environments={})) == [DONE]


def test_the_next_message_alone() -> None:
    task = tasks()[0]
    row = next_message(task, chat=chat())
    assert row == gold_message(task)
    assert said(row) == [say(*task.target)]
    assert row.ids[-1] == chat().eos_id
    assert row.trained[-1]


def test_gold_that_fails_in_its_own_world_is_refused() -> None:
    task = hidden_task()
    wrong = replace(task, gold=(task.gold[0][1:],))
    with pytest.raises(ConfigError, match=f"task {task.id}: gold call {task.gold[0][1].name} fails in its own world"):
        gold_dialogue(wrong, chat=chat(), environments=ENVIRONMENTS)


# supervise(): the optimisation.

ROWS = [
    TokenRow(ids=(5, 6, 7, 8, 9), trained=(False, False, True, True, True)),
    TokenRow(ids=(1, 2, 3), trained=(False, True, True)),
    TokenRow(ids=(4, 4, 9, 1), trained=(False, False, False, True)),
]
STILL = SupervisedSettings(steps=1, batch=3, learning_rate=1e-12, warmup=0.0)


def naive_loss(model: Any, rows: list[TokenRow]) -> float:
    picked = [naive_logprobs(model, row.ids)[list(row.trained[1:])] for row in rows]
    return -torch.cat(picked).mean().item()


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def test_the_loss_is_the_mean_negative_loglikelihood_of_trained_tokens() -> None:
    model = tiny_model()
    expected = naive_loss(model, ROWS)
    assert supervise(model, ROWS, STILL) == [pytest.approx(expected, rel=1e-5)]


def assert_trained_alike(rows: list[TokenRow], *ways: SupervisedSettings) -> None:
    """Every way ends with the losses and weights of the first."""
    found = []
    for settings in ways:
        model = tiny_model(dtype=torch.float64)
        found.append((supervise(model, rows, settings), weights(model)))
    (losses, ended), *others = found
    for other_losses, other_ended in others:
        assert losses == pytest.approx(other_losses, rel=1e-9)
        for name, weight in ended.items():
            torch.testing.assert_close(weight, other_ended[name], rtol=1e-6, atol=1e-9)


def test_micro_batches_change_nothing() -> None:
    settings = SupervisedSettings(steps=4, batch=3, learning_rate=1e-2)
    assert_trained_alike(ROWS, *(settings.model_copy(update={"token_budget": budget}) for budget in (1, 10_000)))


def test_shared_beginnings_change_nothing() -> None:
    """Rows that begin alike, the same row twice, and one inside another: same losses and weights as each alone."""
    rows = [*ROWS, ROWS[0], TokenRow(ids=(5, 6, 7), trained=(False, True, True))]
    settings = SupervisedSettings(steps=4, batch=5, learning_rate=1e-2)
    assert_trained_alike(rows, *(settings.model_copy(update={"tree": tree}) for tree in (True, False)))


def test_a_model_that_cannot_share_learns_row_by_row() -> None:
    config = MistralConfig(
        vocab_size=64,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=16,
        sliding_window=3,
    )
    torch.manual_seed(0)
    model = MistralForCausalLM(config).eval()
    expected = naive_loss(model, ROWS)
    assert supervise(model, ROWS, STILL) == [pytest.approx(expected, rel=1e-5)]


def test_every_epoch_visits_every_row_once_in_an_order_of_its_own() -> None:
    """With a learning rate of nothing, the loss of a step tells which row it saw."""
    model = tiny_model()
    rows = [TokenRow(ids=(1, 2 + i, 9), trained=(False, True, True)) for i in range(8)]
    expected = [naive_loss(model, [row]) for row in rows]

    def visits(seed: int) -> list[list[int]]:
        settings = SupervisedSettings(seed=seed, steps=24, batch=1, learning_rate=1e-12)
        losses = supervise(model, rows, settings)
        seen = [min(range(8), key=lambda i, loss=loss: abs(expected[i] - loss)) for loss in losses]
        return [seen[i : i + 8] for i in (0, 8, 16)]

    for epoch in (epochs := visits(0)):
        assert sorted(epoch) == list(range(8))
    assert len(set(map(tuple, epochs))) == 3
    assert visits(0) == epochs != visits(1)


def test_a_tiny_model_learns_its_gold_by_heart() -> None:
    task = tasks()[0]
    row = gold_message(task)
    model = tiny_model(vocabulary=len(chat().renderer.tokenizer))
    losses = supervise(model, [row], SupervisedSettings(steps=60, batch=1, learning_rate=1e-2))
    assert losses[-1] < 0.1 < losses[0]
    prompt = row.ids[: row.trained.index(True)]
    policy = HFPolicy(model, eos_id=chat().eos_id, pad_id=chat().pad_id)
    greedy = Sampling(max_tokens=60, temperature=0.0)
    (completion,) = policy.generate([prompt], sampling=greedy, seed=0)
    assert completion.ids == row.ids[len(prompt) :]


def test_frozen_parameters_stay_as_they_are() -> None:
    model = tiny_model()
    model.model.requires_grad_(False)
    before = weights(model)
    supervise(model, ROWS, SupervisedSettings(steps=3, batch=3))
    after = weights(model)
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == ["lm_head.weight"]


def test_a_run_cut_short_is_the_beginning_of_the_whole_one() -> None:
    settings = SupervisedSettings(steps=6, batch=2, learning_rate=1e-2)
    told: list[tuple[int, float]] = []
    whole = supervise(tiny_model(), ROWS, settings, report=lambda step, loss: told.append((step, loss)))
    assert told == list(enumerate(whole))
    assert supervise(tiny_model(), ROWS, settings, until=3) == whole[:3]


def test_a_forest_gives_the_gradient_of_separate_rows() -> None:
    """Of one batch: dialogues that share their tools, one inside another, and one twice."""
    rows = [gold_dialogue(task, chat=chat(), environments=ENVIRONMENTS) for task in tasks()[:4]]
    rows += [rows[0], TokenRow(ids=rows[1].ids[:-3], trained=rows[1].trained[:-3])]
    model = tiny_model(vocabulary=len(chat().renderer.tokenizer), dtype=torch.float64)
    found = []
    for tree in (True, False):
        trainer = SupervisedTrainer(model, rows, SupervisedSettings(batch=6, tree=tree))
        loss = trainer.accumulate(rows, packed_groups(model, rows, tree=tree))
        found.append((loss, [parameter.grad.clone() for parameter in trainer.parameters]))
    (loss, gradients), (separate, others) = found
    assert loss == pytest.approx(separate, rel=1e-12)
    for one, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-12)


def test_an_update_counts_shared_beginnings_once() -> None:
    rows = [
        TokenRow(ids=(1, 2, 3, 4), trained=(False, False, True, True)),
        TokenRow(ids=(1, 2, 5), trained=(False, False, True)),
    ]
    update = SupervisedTrainer(tiny_model(), rows, SupervisedSettings(steps=4, batch=2, warmup=0.5)).update()
    # 4 + 3 tokens, (1, 2) in common; the first of two warm-up updates has half of the peak
    assert (update.raw_tokens, update.unique_tokens, update.trained_tokens) == (7, 5, 3)
    assert update.learning_rate == pytest.approx(3e-3 / 2)


def test_what_is_held_back_is_never_learned_not_even_as_a_copy() -> None:
    rows = [TokenRow(ids=(1, 2 + i), trained=(False, True)) for i in range(20)]
    learned, held = hold_back([*rows, *rows], 0.25, seed=1)
    assert (len(held), len(set(held)), len(learned)) == (5, 5, 30)
    assert not set(learned) & set(held)
    assert {*learned, *held} == set(rows)
    assert hold_back([*rows, *rows], 0.25, seed=1) == (learned, held)
    assert hold_back([*rows, *rows], 0.25, seed=2)[1] != held
    assert hold_back(rows, 0.0, seed=1) == (rows, [])
    assert hold_back(rows[:1], 0.9, seed=1) == (rows[:1], [])


# A run in its folder: kept, stopped, broken off, continued.

RUN = SupervisedSettings(steps=7, batch=2, learning_rate=1e-2)


def supervised_run(
    folder: Path,
    *,
    rows: list[TokenRow] = ROWS,
    lora: bool = False,
    dtype: torch.dtype = torch.float32,
    resume: bool = False,
) -> SupervisedRun:
    model = widen_stream(tiny_model(dtype=dtype))
    accelerator = Accelerator(cpu=True)
    if lora:
        model = add_lora(model, LoraSettings(rank=2), seed=0)
    trainer = SupervisedTrainer(accelerator.prepare_model(model, evaluation_mode=True), rows, RUN)
    accelerator.prepare_optimizer(trainer.optimizer)
    run = RunFolder(folder)
    run.create({}, resume=resume)
    checkpoints = Checkpoints(run, accelerator, trainer)
    if resume:
        checkpoints.resume()
    return SupervisedRun(trainer=trainer, validation=ROWS[:1], run=run, checkpoints=checkpoints, checkpoint_every=2)


def finished(run: SupervisedRun) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    run.train(stop=lambda: False, report=lambda step, metrics: None)
    return lines(run.run), weights(run.trainer.model)


def lines(run: RunFolder) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in read_jsonl(run.metrics)]


def assert_same(one: tuple[Any, dict[str, torch.Tensor]], other: tuple[Any, dict[str, torch.Tensor]]) -> None:
    assert one[0] == other[0]
    for name, weight in one[1].items():
        assert torch.equal(weight, other[1][name]), name


WAYS = {"full": {}, "lora": {"lora": True}, "bf16": {"dtype": torch.bfloat16}}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path: Path, way: dict[str, Any]) -> None:
    whole = finished(supervised_run(tmp_path / "whole", **way))
    first = supervised_run(tmp_path / "stopped", **way)
    first.train(stop=lambda: first.trainer.step == 3, report=lambda step, metrics: None)
    assert len(lines(first.run)) == 3
    again = supervised_run(tmp_path / "stopped", **way, resume=True)
    assert again.trainer.step == 3
    assert_same(finished(again), whole)


def test_a_run_that_broke_off_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """After 5 updates, with checkpoints after 2 and 4: the fifth is made again, and its line is written once."""

    def break_off(step: int, metrics: dict[str, float]) -> None:
        if step == 5:
            raise KeyboardInterrupt

    whole = finished(supervised_run(tmp_path / "whole"))
    first = supervised_run(tmp_path / "broken")
    with pytest.raises(KeyboardInterrupt):
        first.train(stop=lambda: False, report=break_off)
    assert len(lines(first.run)) == 5
    again = supervised_run(tmp_path / "broken", resume=True)
    assert again.trainer.step == 4
    assert_same(finished(again), whole)


def test_a_run_does_not_go_on_with_other_rows(tmp_path: Path) -> None:
    finished(supervised_run(tmp_path))
    with pytest.raises(ConfigError, match="begun with other rows than these"):
        supervised_run(tmp_path, rows=ROWS[:2], resume=True)


def test_the_line_of_an_update_says_what_it_did(tmp_path: Path) -> None:
    """The plain loop and the run are the same; the rows held back are measured after the first update and the last."""
    rows, ended = finished(supervised_run(tmp_path))
    model = tiny_model()
    assert [row["loss"] for row in rows] == supervise(model, ROWS, RUN)
    assert_same(([], weights(model)), ([], ended))
    assert [row["step"] for row in rows] == list(range(7))
    assert rows[-1]["validation_loss"] == pytest.approx(naive_loss(model, ROWS[:1]), rel=1e-5)
    assert "validation_loss" in rows[0]


def test_the_validation_loss_is_measured_some_twenty_times() -> None:
    assert [step for step in range(1, 8) if measured_after(step, 7)] == [1, 2, 3, 4, 5, 6, 7]
    # every 400 // 20 = 20 updates, and after the first
    assert [step for step in range(1, 401) if measured_after(step, 400)] == [1, *range(20, 401, 20)]
