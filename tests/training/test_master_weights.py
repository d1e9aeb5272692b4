"""Weights in bfloat16 are trained as if they were in float32."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import torch
from tiny_policies import ENVIRONMENTS, chat, tiny_model
from tiny_runs import TASKS, finish, metrics, tiny_run, warm_model

from fission_grpo.training.dialogues import gold_dialogue
from fission_grpo.training.master_weights import MasterAdamW, adamw, updated
from fission_grpo.training.supervised import SupervisedSettings, supervise


def weight(value: float = 1.0) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.full((3,), value, dtype=torch.bfloat16))


def descend(parameter: torch.nn.Parameter, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        parameter.float().sum().backward()
        optimizer.step()


def test_an_update_of_a_ten_thousandth_is_not_lost() -> None:
    """AdamW moves by its learning rate a step under a gradient that stays: 100 x 1e-4. In bfloat16 the next number
    below 1 is 1 - 1/256, and nothing ever moves."""
    lost = weight()
    descend(lost, torch.optim.AdamW([lost], lr=1e-4, weight_decay=0.0), 100)
    assert torch.equal(lost, weight())
    kept = weight()
    optimizer = adamw([kept], learning_rate=1e-4, weight_decay=0.0)
    descend(kept, optimizer, 100)
    (master,) = updated(optimizer)
    torch.testing.assert_close(master, torch.full((3,), 0.99), rtol=0, atol=1e-5)
    assert torch.equal(kept, master.bfloat16())
    assert kept.max() < 1


def test_gradients_of_micro_batches_add_up_in_single_precision() -> None:
    """1 + 1/512 is 1 in bfloat16."""
    parameter = weight()
    (master,) = updated(adamw([parameter], learning_rate=1.0, weight_decay=0.0))
    for scale in (1.0, 1 / 512):
        (parameter * scale).sum().backward()
    assert parameter.grad is None
    assert torch.equal(master.grad, torch.full((3,), 1 + 1 / 512))


def test_weights_in_single_precision_have_no_masters() -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = adamw([parameter], learning_rate=1.0, weight_decay=0.0)
    assert type(optimizer) is torch.optim.AdamW
    assert updated(optimizer) == [parameter]


def test_a_state_that_was_saved_goes_on_bit_for_bit() -> None:
    whole, stopped = weight(), weight()
    descend(whole, adamw([whole], learning_rate=1e-4, weight_decay=0.1), 20)
    optimizer = adamw([stopped], learning_rate=1e-4, weight_decay=0.1)
    descend(stopped, optimizer, 11)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    resumed = weight(7.0)
    again = MasterAdamW([resumed], learning_rate=1e-4, weight_decay=0.1)
    again.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(resumed, stopped)
    descend(resumed, again, 9)
    assert torch.equal(resumed, whole)
    assert all(state["exp_avg"].dtype is torch.float32 for state in again.state.values())


def bf16_model() -> Any:
    return warm_model().to(torch.bfloat16)


def test_a_run_in_bf16_resumes_bit_for_bit_and_its_masters_are_those_of_the_weights(tmp_path: Path) -> None:
    whole = tiny_run(tmp_path / "whole", model=bf16_model(), learning_rate=1e-5)
    finish(whole)
    finish(tiny_run(tmp_path / "stopped", model=bf16_model(), learning_rate=1e-5), stop_after=3)
    resumed = tiny_run(tmp_path / "stopped", model=bf16_model(), learning_rate=1e-5, resume=True)
    finish(resumed)
    assert metrics(resumed.run) == metrics(whole.run)
    for one, other in zip(resumed.learner.parameters, whole.learner.parameters, strict=True):
        assert torch.equal(one, other)
    start = [parameter.float() for parameter in bf16_model().parameters()]
    moved = [(master - begun).abs().max().item() for master, begun in zip(whole.learner.parameters, start, strict=True)]
    assert max(moved) > 0
    for parameter, master in zip(whole.learner.model.parameters(), whole.learner.parameters, strict=True):
        assert torch.equal(parameter, master.bfloat16())


def test_training_in_bf16_follows_training_in_single_precision() -> None:
    """The losses stay together; without masters, and at this rate, weights in bfloat16 hardly move."""
    rows = [gold_dialogue(task, chat=chat(), environments=ENVIRONMENTS) for task in TASKS]
    settings = SupervisedSettings(steps=30, batch=4, learning_rate=1e-3)
    exact = tiny_model(vocabulary=len(chat().renderer.tokenizer))
    narrow = copy.deepcopy(exact).to(torch.bfloat16)
    losses, followed = supervise(exact, rows, settings), supervise(narrow, rows, settings)
    assert losses[-1] < 0.8 * losses[0]
    torch.testing.assert_close(torch.tensor(followed), torch.tensor(losses), rtol=0.03, atol=0.0)
