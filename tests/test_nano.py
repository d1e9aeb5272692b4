"""`nano` is what its script makes: the tokenizer byte for byte, the weights by the losses recorded on the way."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
import torch

from fission_grpo.models import build_nano
from fission_grpo.models.catalog import find_model, load_policy_model
from fission_grpo.models.nano import CONTROL, copy_accuracy, fresh_model, parameter_count, sharpen_copying
from fission_grpo.policy.scoring import score, separate
from fission_grpo.supervised import gold_dialogue

FOLDER = find_model("nano")
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
    losses = sharpen_copying(model, pad_id=tokenizer.pad_token_id, seed=build_nano.SEED, until=6)
    assert losses == pytest.approx(record()["losses"]["copy"][:6], abs=SLACK)


def test_the_shipped_weights_are_those_at_the_end_of_the_recorded_curve() -> None:
    model, chat = loaded().model, loaded().chat
    rows = [gold_dialogue(task, chat=chat, worlds=build_nano.WORLDS) for task in build_nano.gold_tasks(96)]
    with torch.no_grad():
        scored = score(model, rows, separate(rows), width=400, temperature=1.0, token_budget=8192, pad_id=chat.pad_id)
        loss = -sum(scores.logprobs_BT.sum().item() for scores in scored) / sum(sum(row.trained) for row in rows)
    last = record()["losses"]["warm_start"][-50:]
    # These rows are 96 of the 12,000 it was trained on; 50 batches of 32 scatter around the same mean.
    assert min(last) <= loss <= max(last)


def test_nano_is_small_and_copies() -> None:
    model = loaded().model
    assert parameter_count(model) == record()["parameters"] < 5_000_000
    assert (FOLDER / "model.safetensors").stat().st_size < 10_000_000
    assert model.config.vocab_size > len(CONTROL)
    assert copy_accuracy(fresh_model(loaded().tokenizer, seed=0), seed=1) < 0.05  # the planted circuit is a rough one


@pytest.mark.slow
def test_the_warm_start_goes_down_the_recorded_curve() -> None:
    tokenizer, chat = loaded().tokenizer, loaded().chat
    rows = [gold_dialogue(task, chat=chat, worlds=build_nano.WORLDS) for task in build_nano.gold_tasks()]
    _, losses = build_nano.warm_start(tokenizer, rows, steps=40)
    assert losses["warm_start"] == pytest.approx(record()["losses"]["warm_start"][:40], abs=0.05)
