"""A server writes in the background: the trainer works meanwhile, and nothing depends on how long it takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from scripted_server import Behaviour, Handler, Scripted, good, reset, serving
from simulator_cases import EXPLICIT, SILENT, says
from tiny_runs import buffer_of, fingerprint, finish, metrics, tiny_run, warm_model, weights

from fission_grpo.algorithm.source import FissionSettings
from fission_grpo.client.endpoint import EndpointSettings
from fission_grpo.files import read_jsonl
from fission_grpo.simulator.answer_cache import CacheMode
from fission_grpo.simulator.background import request_feedback
from fission_grpo.simulator.endpoint import EndpointSimulatorSettings, EndpointWriter
from fission_grpo.simulator.guarded import LeakGuardedSimulator
from fission_grpo.simulator.prompts import Candidate, NoCandidate, Prompt
from fission_grpo.simulator.rules import RulesSimulator
from fission_grpo.training.trainer import Trainer
from fission_grpo.tree.reference import Reference

FISSION = FissionSettings(contexts=2, group_size=3, per_group=2)
TEXT = "the runtime does not take this call"


def simulator(server: Scripted | str, **changes: Any) -> LeakGuardedSimulator:
    url = server if isinstance(server, str) else server.url
    own = EndpointSettings(url=url, model="the-model", attempts=1, backoff_seconds=0.01)
    return LeakGuardedSimulator(EndpointWriter(EndpointSimulatorSettings(server=own, **changes)))


def after(seconds: float) -> Behaviour:
    def behave(handler: Handler) -> None:
        time.sleep(seconds)
        good(TEXT)(handler)

    return behave


def told(trainer: Trainer) -> list[dict[str, Any]]:
    """The traces, but for how long the server took."""
    lines = list(read_jsonl(trainer.run.traces))
    for line in lines:
        line.pop("feedback_cost", None)
    return lines


def written(trainer: Trainer) -> list[str]:
    return [line["feedback_origin"] for line in told(trainer) if line["kind"] == "fission"]


def assert_same_run(one: Trainer, other: Trainer) -> None:
    assert metrics(one.run) == metrics(other.run)
    assert told(one) == told(other)
    assert fingerprint(weights(one)) == fingerprint(weights(other))
    assert buffer_of(one) == buffer_of(other)


def test_how_long_a_server_takes_makes_no_difference_and_its_answers_can_be_replayed(tmp_path: Path) -> None:
    cache = str(tmp_path / "answers")
    runs = []
    for name, behaviour in (("fast", good(TEXT)), ("slow", after(0.05))):
        with serving(behaviour) as server:
            kept = {"cache": cache} if name == "slow" else {}
            run = tiny_run(tmp_path / name, fission=FISSION, simulator=simulator(server, **kept), steps=3)
            finish(run)
            assert server.received
        runs.append(run)
    fast, slow = runs
    assert "endpoint" in written(fast)
    assert_same_run(fast, slow)
    replaying = simulator("http://127.0.0.1:9", cache=cache, mode=CacheMode.REPLAY)
    replayed = tiny_run(tmp_path / "replayed", fission=FISSION, simulator=replaying, steps=3)
    finish(replayed)
    assert_same_run(fast, replayed)


class Watched(Reference):
    """Says when it is asked for something."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.asked = threading.Event()

    @contextmanager
    def model(self) -> Iterator[Any]:
        self.asked.set()
        with super().model() as model:
            yield model


def test_the_frozen_start_is_asked_while_the_server_writes(tmp_path: Path) -> None:
    """The server answers no sooner than that: if the trainer only waited, the deadline would pass."""
    reference = Watched(warm_model())

    def when_asked(handler: Handler) -> None:
        if reference.asked.wait():
            good(TEXT)(handler)

    with serving(when_asked) as server:
        trainer = tiny_run(tmp_path, fission=FISSION, simulator=simulator(server, deadline_seconds=120.0), steps=1)
        trainer.learner.reference = reference
        finish(trainer)
    assert "endpoint" in written(trainer)
    assert not any(name.startswith("simulator/fallback") for line in metrics(trainer.run) for name in line)


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_looking_ahead_changes_nothing_but_the_order_of_the_work(tmp_path: Path, beta: float) -> None:
    """The same feedback from a writer here and from one elsewhere: the same run, up to rounding."""

    def run(name: str, *, remote: bool) -> Trainer:
        scribe = says(TEXT)
        scribe.remote = remote
        model = warm_model(torch.float64)
        trainer = tiny_run(
            tmp_path / name, model=model, fission=FISSION, simulator=LeakGuardedSimulator(scribe), steps=3, beta=beta
        )
        finish(trainer)
        return trainer

    here, elsewhere = run("here", remote=False), run("elsewhere", remote=True)
    assert told(here)[0]["trajectories"] == told(elsewhere)[0]["trajectories"]
    for name, weight in weights(here).items():
        torch.testing.assert_close(weight, weights(elsewhere)[name], rtol=0, atol=1e-8)
    assert "scribe" in written(here)


def test_a_server_that_is_down_stops_nobody(tmp_path: Path) -> None:
    with serving(reset) as server:
        trainer = tiny_run(tmp_path, fission=FISSION, simulator=simulator(server), steps=2)
        finish(trainer)
    assert set(written(trainer)) == {"rules"}
    assert sum(line.get("simulator/fallback/unanswered", 0) for line in metrics(trainer.run)) > 0


class Buggy:
    name = "buggy"
    remote = True

    def write(self, prompts: Sequence[Prompt]) -> list[Candidate | NoCandidate]:
        raise ZeroDivisionError("ours")


def test_a_bug_in_the_background_ends_the_run_as_it_would_in_front(tmp_path: Path) -> None:
    trainer = tiny_run(tmp_path, fission=FISSION, simulator=LeakGuardedSimulator(Buggy()), steps=2)
    with pytest.raises(ZeroDivisionError, match="ours"):
        finish(trainer)


def test_what_is_being_written_is_in_the_checkpoint(tmp_path: Path) -> None:
    scribe = says(TEXT)
    scribe.remote = True
    trainer = tiny_run(tmp_path, fission=FISSION, simulator=LeakGuardedSimulator(scribe), steps=2)
    trainer.stages.observe(trainer.stages.explore(trainer.tasks[:3], step=0, progress=0.0), step=0)
    assert trainer.source.awaits_feedback
    assert len(trainer.source.state_dict()["buffer"]["contexts"]) == trainer.source.count.observed > 0
    assert not trainer.source.awaits_feedback


def test_only_a_server_is_asked_in_the_background() -> None:
    here, elsewhere = LeakGuardedSimulator(says(TEXT)), LeakGuardedSimulator(Buggy())
    assert [one.remote for one in (RulesSimulator(), here, elsewhere)] == [False, False, True]
    assert request_feedback(here, [EXPLICIT, SILENT]).done()
    with pytest.raises(ZeroDivisionError, match="ours"):
        request_feedback(elsewhere, [EXPLICIT]).result()
