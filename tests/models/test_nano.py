"""`nano` is what its script makes: the tokenizer byte for byte, the weights by the losses recorded on the way."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest

from fission_grpo.models.catalog import find_model, load_policy_model
from fission_grpo.models.nano import CONTROL, fresh_model, parameter_count
from fission_grpo.recipes import Recipe, build_nano, load_recipe
from fission_grpo.tasks.synthesis.generator import synthesise
from fission_grpo.training.copying import copy_accuracy, sharpen_copying
from fission_grpo.training.demonstrations import CLEAN_SHARE, demonstration_rows
from fission_grpo.training.dialogues import gold_dialogue

pytestmark = pytest.mark.early

FOLDER = find_model("nano").folder
SLACK = 2e-3
"""Nats per token by which another processor's arithmetic may move a loss."""


@cache
def record() -> dict[str, Any]:
    return dict(json.loads((FOLDER / "build.json").read_text(encoding="utf-8")))


@cache
def loaded() -> Any:
    return load_policy_model("nano")


def test_the_script_still_makes_the_shipped_tokenizer() -> None:
    tasks = build_nano.gold_tasks(build_nano.VOCABULARY_TASKS)
    rebuilt = json.loads(build_nano.nano_tokenizer(tasks).backend_tokenizer.to_str())
    shipped = json.loads((FOLDER / "tokenizer.json").read_text(encoding="utf-8"))
    assert rebuilt["model"]["merges"] == shipped["model"]["merges"]
    assert rebuilt["model"]["vocab"] == shipped["model"]["vocab"]


def test_copy_practice_starts_out_as_recorded() -> None:
    tokenizer = loaded().tokenizer
    model = fresh_model(tokenizer, seed=build_nano.SEED)
    losses = sharpen_copying(model, seed=build_nano.SEED, until=6)
    assert losses == pytest.approx(record()["losses"]["copy"][:6], abs=SLACK)


def test_the_shipped_weights_have_the_recorded_loss_and_it_is_far_down_the_curve() -> None:
    model, chat = loaded().model, loaded().chat
    rows = [
        gold_dialogue(task, chat=chat, environments=build_nano.NANO_ENVIRONMENTS)
        for task in build_nano.gold_tasks(build_nano.PROVED)
    ]
    loss = build_nano.mean_loss(model, rows, tree=False, token_budget=8192)
    assert loss == pytest.approx(record()["final"], abs=SLACK)
    assert loss < record()["losses"]["warm_start"][-1] / 10


def test_nano_is_small_and_copies() -> None:
    model = loaded().model
    assert parameter_count(model) == record()["parameters"] < 5_000_000
    assert (FOLDER / "model.safetensors").stat().st_size < 10_000_000
    assert model.config.vocab_size > len(CONTROL)
    assert copy_accuracy(fresh_model(loaded().tokenizer, seed=0), seed=1) < 0.05  # the planted circuit is a rough one


@pytest.mark.slow
def test_the_warm_start_goes_down_the_recorded_curve() -> None:
    tokenizer, chat = loaded().tokenizer, loaded().chat
    rows = [
        gold_dialogue(task, chat=chat, environments=build_nano.NANO_ENVIRONMENTS) for task in build_nano.gold_tasks()
    ]
    recorded = record()["losses"]["warm_start"]
    _, losses = build_nano.warm_start(tokenizer, rows, steps=len(recorded))
    assert losses["warm_start"] == pytest.approx(recorded, abs=0.05)


def test_the_harder_tasks_fit_nano_with_room_for_errors() -> None:
    settings, chat = load_recipe(Recipe.NANO_HARD), loaded().chat
    tasks = synthesise(
        settings.synthetic.seed,
        120,
        apis=settings.synthetic.apis,
        mixture=settings.synthetic.mixture,
        tools=settings.synthetic.tools,
    )
    longest = max(len(turn) for task in tasks for turn in task.gold)
    assert longest == 5
    # Every gold call, two errors with the calls that repair them, the words at the end, and one more to spare.
    assert settings.rollouts.max_turns >= longest + 2 + 1 + 1
    rows = demonstration_rows(tasks, count=12, seed=0, chat=chat, environments=build_nano.NANO_ENVIRONMENTS)
    assert len(rows) == 12 * (1 + CLEAN_SHARE)
    # A whole gold dialogue, and as many messages more as a rollout may have, each with an answer of its own length.
    room = loaded().model.config.max_position_embeddings - max(len(row.ids) for row in rows)
    assert room >= settings.rollouts.max_turns * 2 * settings.rollouts.max_tokens
