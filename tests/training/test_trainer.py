"""The loop: what is left without fission is GRPO, the same run is the same run, and a killed one goes on."""

from __future__ import annotations

import copy
import json
import math
import multiprocessing
import os
import pickle
import resource
import shutil
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import product
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from tiny_policies import chat, naive_logprobs, tiny_model
from tiny_runs import (
    FISSION,
    OFF,
    OFFLINE,
    SETTINGS,
    STEPS,
    TASKS,
    buffer_of,
    fingerprint,
    finish,
    metrics,
    run_in_process,
    run_until_killed,
    tiny_run,
    warm_model,
    weights,
)

from fission_grpo.algorithm.context import context_from
from fission_grpo.algorithm.rewards import DecisionReward
from fission_grpo.algorithm.source import FissionSettings
from fission_grpo.chat.parse import parse_message, render_call
from fission_grpo.environments.bfcl.environment import BFCL, BfclEnvironment
from fission_grpo.errors import ConfigError, EnvironmentFault, FissionError
from fission_grpo.files import read_jsonl, write_text
from fission_grpo.models.lora import LoraSettings, add_lora
from fission_grpo.policy.base import Sampling
from fission_grpo.policy.local.hf_policy import HFPolicy
from fission_grpo.rollout import Horizon, RolloutSettings
from fission_grpo.run.folder import RunFolder
from fission_grpo.seeds import derive
from fission_grpo.simulator.base import ErrorSimulator
from fission_grpo.simulator.passthrough import PassthroughSimulator
from fission_grpo.simulator.static import StaticSimulator
from fission_grpo.training.learner import Update
from fission_grpo.training.trainer import Trainer
from fission_grpo.types import Task, ToolCall, ToolOutcome, Turn

pytestmark = pytest.mark.early


def assert_close(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor], *, atol: float) -> None:
    for name, weight in one.items():
        torch.testing.assert_close(weight, other[name], rtol=0, atol=atol, msg=lambda m, name=name: f"{name}: {m}")


# Without fission it is GRPO.


def plain_grpo(model: Any, *, steps: int, beta: float) -> None:
    """GRPO in one function: same seeds, nothing else in common with the trainer."""
    reference = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=SETTINGS["learning_rate"], betas=(0.9, 0.95), weight_decay=0.0)
    policy = HFPolicy(model, eos_id=chat().eos_id, pad_id=chat().pad_id)
    order = list(range(len(TASKS)))
    Random(derive(0, "order", 0)).shuffle(order)
    queries, group_size = SETTINGS["queries"], SETTINGS["group_size"]
    for step in range(steps):
        explored = [TASKS[order[step * queries + place]] for place in range(queries)]
        prompts = [chat().prompt(task.messages, task.tools) for task in explored]
        contexts = [prompt for prompt in prompts for _ in range(group_size)]
        sampled = policy.generate(contexts, sampling=Sampling(max_tokens=40), seed=derive(0, "exploration", step, 0))
        # The trainer keeps advantages and token weights in single precision; everything else here is double.
        weight = torch.tensor(1 / sum(len(completion.ids) for completion in sampled))
        loss = torch.zeros((), dtype=torch.float64)
        for number, (task, prompt) in enumerate(zip(explored, prompts, strict=True)):
            group = sampled[number * group_size : (number + 1) * group_size]
            rewards = torch.tensor([reward_of(c, task, step / STEPS) for c in group], dtype=torch.float64)
            if rewards.max() - rewards.min() < 1e-9:
                continue
            advantages = ((rewards - rewards.mean()) / (rewards.std(correction=0) + 1e-4)).float()
            for completion, advantage in zip(group, advantages, strict=True):
                ids = prompt + completion.ids
                logprobs = naive_logprobs(model, ids)[len(prompt) - 1 :]
                ratio = torch.exp(logprobs - torch.tensor(completion.logprobs, dtype=torch.float64))
                with torch.no_grad():
                    reference_logprobs = naive_logprobs(reference, ids)[len(prompt) - 1 :]
                difference = reference_logprobs - logprobs
                divergence = difference.square() / 2
                clipped = ratio.clamp(0.8, 1.2)
                loss = loss - torch.minimum(ratio * advantage, clipped * advantage).sum() * weight
                loss = loss + beta * divergence.sum() * weight
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def reward_of(completion: Any, task: Any, progress: float) -> float:
    text = chat().decode(completion.ids)
    turn = Turn(completion=completion, text=text, parsed=parse_message(text), outcomes=())
    gold_tokens = 1 + sum(len(chat().renderer.encode(render_call(call))) for call in task.target)
    return DecisionReward().score(turn, target=task.target, gold_tokens=gold_tokens, progress=progress).total


@pytest.mark.parametrize(("tree", "beta"), [(False, 0.0), (True, 0.1)])
def test_without_fission_it_is_plain_grpo(tmp_path: Path, tree: bool, beta: float) -> None:
    trainer = tiny_run(tmp_path, model=warm_model(torch.float64), fission=OFF, tree=tree, beta=beta)
    before = weights(trainer)
    finish(trainer, stop_after=2)
    plain = warm_model(torch.float64)
    plain_grpo(plain, steps=2, beta=beta)
    moved = max((weight - before[name]).abs().max().item() for name, weight in weights(trainer).items())
    assert moved > 1e-3
    assert_close(weights(trainer), plain.state_dict(), atol=1e-9)


@pytest.mark.parametrize("simulator", [StaticSimulator(), PassthroughSimulator()], ids=lambda simulator: simulator.name)
def test_without_fission_the_simulator_makes_no_difference(tmp_path: Path, simulator: ErrorSimulator) -> None:
    one = tiny_run(tmp_path / "one", fission=OFF, steps=2)
    other = tiny_run(tmp_path / "other", fission=OFF, steps=2, simulator=simulator)
    finish(one)
    finish(other)
    assert fingerprint(weights(one)) == fingerprint(weights(other))
    assert metrics(one.run) == metrics(other.run)
    assert one.run.traces.read_bytes() == other.run.traces.read_bytes()


@pytest.mark.parametrize("fission", [OFF, FissionSettings(contexts=2, group_size=3, trigger=100, capacity=100)])
def test_a_step_of_its_own_without_contexts_is_plain_grpo(tmp_path: Path, fission: FissionSettings) -> None:
    """Whether fission is off or its trigger never fires."""
    plain = tiny_run(tmp_path / "plain", fission=OFF)
    apart = tiny_run(tmp_path / "apart", fission=fission.model_copy(update={"own_step": True}))
    finish(plain, stop_after=2)
    finish(apart, stop_after=2)
    assert fingerprint(weights(plain)) == fingerprint(weights(apart))
    assert [line["update/updates"] for line in metrics(apart.run)] == [1, 1]


def test_in_a_step_of_its_own_recoveries_come_from_the_updated_weights_and_move_them_again(tmp_path: Path) -> None:
    """By hand: update on exploration, recover, update on recoveries; joined, there is one update on both."""
    apart = tiny_run(tmp_path / "apart", fission=FISSION.model_copy(update={"own_step": True}))
    outcome = apart.make_step()
    assert outcome.fission_groups
    assert outcome.update.updates == 2

    by_hand = tiny_run(tmp_path / "by hand")
    tasks, _ = by_hand.order.tasks_of(0)
    groups = by_hand.stages.explore(tasks, step=0, progress=0.0)
    by_hand.stages.observe(groups, step=0)
    first = by_hand.learner.update(groups)
    by_hand.policy.invalidate()
    recoveries = by_hand.stages.recover(by_hand.stages.next_contexts(), step=0, progress=0.0)
    second = by_hand.learner.update(recoveries)
    assert fingerprint(weights(apart)) == fingerprint(weights(by_hand))
    assert outcome.update == first + second
    assert second.logprob_gap < 1e-4  # they were sampled from the very weights that they are scored under

    joined = tiny_run(tmp_path / "joined").make_step()
    assert joined.update.updates == 1
    assert [g.context and g.context.key for g in joined.fission_groups] == [
        g.context and g.context.key for g in outcome.fission_groups
    ]


def test_two_updates_are_told_as_one() -> None:
    """Means over 30 + 10 tokens: KL (30 x 0.2 + 10 x 0.6) / 40 = 0.3, entropy (30 x 1 + 10 x 3) / 40 = 1.5."""
    one = Update(loss=1.0, kl=0.2, entropy=1.0, logprob_gap=1e-6, grad_norm=0.5, trained_tokens=30, unique_tokens=40)
    two = Update(loss=-0.25, kl=0.6, entropy=3.0, logprob_gap=2e-6, grad_norm=0.1, trained_tokens=10, unique_tokens=15)
    both = one + two
    assert (both.kl, both.entropy, both.loss) == pytest.approx((0.3, 1.5, 0.75))
    assert (both.grad_norm, both.logprob_gap, both.trained_tokens, both.unique_tokens) == (0.5, 2e-6, 40, 55)
    assert both.updates == 2


def test_a_token_budget_is_kept_and_resumed(tmp_path: Path) -> None:
    """What a run without it sampled, halved."""
    free = tiny_run(tmp_path / "free", fission=OFF)
    finish(free)
    budget = free.order.explored.tokens // 2
    assert free.order.explored.tokens == sum(line["generate/sampled"] for line in metrics(free.run))

    whole = tiny_run(tmp_path / "whole", fission=OFF, sampled_tokens=budget)
    finish(whole)
    spent = [line["generate/sampled"] for line in metrics(whole.run)]
    tasks = [line["rollouts"] / SETTINGS["group_size"] for line in metrics(whole.run)]
    assert tasks[0] == SETTINGS["queries"]
    assert sum(spent) == pytest.approx(budget, rel=0.15)
    assert tasks[-1] < SETTINGS["queries"]

    finish(tiny_run(tmp_path / "stopped", fission=OFF, sampled_tokens=budget), stop_after=2)
    resumed = tiny_run(tmp_path / "stopped", fission=OFF, sampled_tokens=budget, resume=True)
    finish(resumed)
    assert metrics(resumed.run) == metrics(whole.run)
    assert fingerprint(weights(resumed)) == fingerprint(weights(whole))


def test_whole_turns_are_explored_beside_single_messages(tmp_path: Path) -> None:
    mixed = tiny_run(tmp_path, fission=OFF, turn_queries=1)
    finish(mixed, stop_after=1)
    kinds = [
        {name for member in line["trajectories"] for name in member["reward"]["terms"]}
        for line in read_jsonl(mixed.run.traces)
    ]
    assert [("verdict" in terms, "correctness" in terms) for terms in kinds] == [(False, True)] * 3 + [(True, False)]


# The run that the following tests compare with: fission on, five steps.


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    trainer = tiny_run(tmp_path_factory.mktemp("whole"))
    finish(trainer)
    return trainer


def assert_same_run(trainer: Trainer, whole: Trainer) -> None:
    assert metrics(trainer.run) == metrics(whole.run)
    assert trainer.run.traces.read_bytes() == whole.run.traces.read_bytes()
    assert fingerprint(weights(trainer)) == fingerprint(weights(whole))
    assert buffer_of(trainer) == buffer_of(whole)
    assert trainer.source.count == whole.source.count


def test_the_same_seed_is_the_same_run(tmp_path: Path, whole: Trainer) -> None:
    again = tiny_run(tmp_path)
    finish(again)
    assert_same_run(again, whole)


def test_another_seed_is_another_run(tmp_path: Path, whole: Trainer) -> None:
    other = tiny_run(tmp_path, seed=1)
    finish(other, stop_after=1)
    assert metrics(other.run)[0] != metrics(whole.run)[0]


def test_a_run_tells_what_it_did(whole: Trainer) -> None:
    steps = metrics(whole.run)
    assert [line["step"] for line in steps] == list(range(STEPS))
    assert steps[-1]["fission/used_total"] == sum(line["fission/contexts"] for line in steps) > 0
    assert max(line["update/logprob_gap"] for line in steps) < 1e-4  # the trainer scores as the sampler did
    assert max(line["update/grad_norm"] for line in steps) > 0
    for line in steps:
        assert line["update/unique_tokens"] == line["update/pushed_tokens"] < line["update/raw_tokens"]
        assert line["generate/prefilled"] < line["generate/raw"]
        assert line["rollouts"] == SETTINGS["queries"] * SETTINGS["group_size"]


def test_every_epoch_explores_every_task_once(whole: Trainer) -> None:
    explored = [line["task"] for line in read_jsonl(whole.run.traces) if line["kind"] == "exploration"]
    epochs = [explored[i : i + len(TASKS)] for i in (0, len(TASKS))]
    assert [sorted(epoch) for epoch in epochs] == [sorted(task.id for task in TASKS)] * 2
    assert epochs[0] != epochs[1]


def test_a_family_continues_the_very_tokens_of_the_trajectory_that_failed(whole: Trainer) -> None:
    lines = list(read_jsonl(whole.run.traces))
    by_id = {line["group"]: line for line in lines}
    assert len(by_id) == len(lines)
    families = [line for line in lines if line["kind"] == "fission"]
    assert families
    for family in families:
        parent = by_id[family["parent"]["group"]]
        failed = parent["trajectories"][family["parent"]["trajectory"]]
        assert failed["failure"]["turn"] == family["parent"]["turn"] == 0
        start, stop = failed["sampled"][0]
        condition = parent["prompt_ids"] + failed["ids"][start:stop]
        assert family["prompt_ids"][: len(condition)] == condition
        assert chat().decode(family["prompt_ids"][len(condition) :]).count(family["feedback"][0]) == 1
        assert family["task"] == parent["task"]


def test_advantages_in_the_traces_are_normalised_group_by_group(whole: Trainer) -> None:
    for line in read_jsonl(whole.run.traces):
        rewards = [member["reward"]["total"] for member in line["trajectories"]]
        mean = sum(rewards) / len(rewards)
        spread = (sum((reward - mean) ** 2 for reward in rewards) / len(rewards)) ** 0.5
        expected = [(reward - mean) / (spread + 1e-4) for reward in rewards]
        assert [member["advantage"] for member in line["trajectories"]] == pytest.approx(expected, abs=1e-4)


def test_a_run_that_recomputes_its_layers_is_the_same_run(tmp_path: Path, whole: Trainer) -> None:
    trainer = tiny_run(tmp_path, gradient_checkpointing=True)
    finish(trainer)
    assert metrics(trainer.run) == metrics(whole.run)
    assert fingerprint(weights(trainer)) == fingerprint(weights(whole))


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_sharing_prefixes_does_not_change_the_run(tmp_path: Path, beta: float) -> None:
    found = []
    for tree in (True, False):
        trainer = tiny_run(tmp_path / str(tree), model=warm_model(torch.float64), tree=tree, beta=beta)
        finish(trainer, stop_after=3)
        found.append((weights(trainer), metrics(trainer.run)))
    assert_close(found[0][0], found[1][0], atol=1e-8)
    for shared, apart in zip(found[0][1], found[1][1], strict=True):
        assert shared["update/unique_tokens"] < apart["update/unique_tokens"] == apart["update/raw_tokens"]
        assert shared["generate/prefilled"] < apart["generate/prefilled"] == apart["generate/raw"]
        assert apart["update/pushed_tokens"] == apart["update/raw_tokens"]
        assert shared["generate/guessed"] > apart["generate/guessed"] == 0
        assert shared["generate/passes"] < apart["generate/passes"]
        work = {"update/unique_tokens", "update/pushed_tokens"}
        work |= {f"generate/{name}" for name in ("prefilled", "decoded", "guessed", "confirmed", "passes")}
        for name in work:
            del shared[name], apart[name]
        assert shared == pytest.approx(apart, rel=1e-6, abs=1e-6)
    assert any(line["fission/contexts"] for line in found[0][1])


# Stop, kill, resume.


@pytest.mark.parametrize("step", [1, 3, 4])
def test_a_stopped_run_continues_bit_for_bit(tmp_path: Path, whole: Trainer, step: int) -> None:
    first = tiny_run(tmp_path)
    reports = finish(first, stop_after=step)
    assert [report.step for report in reports] == list(range(1, step + 1))
    assert len(first.source.buffer) > 0
    second = tiny_run(tmp_path, resume=True)
    assert (second.state.step, len(second.source.buffer)) == (step, len(first.source.buffer))
    finish(second)
    assert_same_run(second, whole)


def test_a_finished_run_has_nothing_left_to_do(tmp_path: Path) -> None:
    finish(tiny_run(tmp_path, steps=1))
    again = tiny_run(tmp_path, steps=1, resume=True)
    assert finish(again) == []
    assert len(metrics(again.run)) == 1


@pytest.fixture(scope="module", autouse=True)
def server() -> None:
    """A process that imports everything while the first tests run; from it others start at once, with clean threads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))  # Python 3.11 forgets to pass it on
        forkserver.set_forkserver_preload(["tiny_runs"])
        forkserver.ensure_running()


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("start") / "weights.pt"
    torch.save(warm_model().state_dict(), path)
    return path


def process(
    folder: Path,
    start: Path,
    *,
    threads: int,
    run: Callable[..., None] = run_in_process,
    fission: FissionSettings = FISSION,
    **environment: str,
) -> ForkServerProcess:
    """The run in a process of its own."""
    made = multiprocessing.get_context("forkserver").Process(
        target=run, args=(folder, start, threads, environment, fission), daemon=True
    )
    made.start()
    return made


def wait_for_lines(run: RunFolder, count: int, victim: ForkServerProcess, *, seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not run.metrics.exists() or run.metrics.read_bytes().count(b"\n") < count:
        assert victim.is_alive(), "the run ended by itself"
        assert time.monotonic() < deadline, "the run makes no progress"
        time.sleep(0.005)


def test_a_killed_run_continues_bit_for_bit(tmp_path: Path, whole: Trainer, start: Path) -> None:
    """SIGKILL between two checkpoints: what was done since the last one is done again, to the same end."""
    victim = process(tmp_path, start, threads=torch.get_num_threads(), run=run_until_killed)
    try:
        wait_for_lines(RunFolder(tmp_path), 3, victim)
    finally:
        victim.kill()
        victim.join()
    assert victim.exitcode == -signal.SIGKILL
    resumed = tiny_run(tmp_path, resume=True)
    assert resumed.state.step in (2, 4)
    assert len(resumed.source.buffer) > 0
    finish(resumed)
    assert_same_run(resumed, whole)


@contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    """A disk that is full, as far as a process without privileges can have one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("part", ["model/model.safetensors", "optimizer.bin", "progress-0.pt"])
def test_a_full_disk_leaves_the_last_checkpoint_whole_and_no_half_one(
    tmp_path: Path, whole: Trainer, part: str
) -> None:
    trainer = tiny_run(tmp_path)
    finish(trainer, stop_after=2)
    last = trainer.run.latest_checkpoint()
    assert last == trainer.run.checkpoints / "step-2"
    trainer.step()
    files = {path: path.stat().st_size for path in last.rglob("*") if path.is_file()}
    room = sorted({0, *files.values()})
    limit = room[room.index(files[last / part]) - 1]  # everything smaller still fits
    with (
        pytest.raises(FissionError, match=r"cannot write .*step-3: .*free some space.*--resume \(.*step-2 is whole\)"),
        no_file_longer_than(limit),
    ):
        trainer.checkpoints.save()
    assert sorted(path.name for path in trainer.run.checkpoints.iterdir()) == ["step-2"]
    resumed = tiny_run(tmp_path, resume=True)
    assert resumed.state.step == 2
    finish(resumed)
    assert_same_run(resumed, whole)


def test_a_checkpoint_of_another_version_is_refused_by_name_before_its_pickles_are_opened(tmp_path: Path) -> None:
    trainer = tiny_run(tmp_path)
    finish(trainer, stop_after=1)
    checkpoint = trainer.run.latest_checkpoint()
    assert checkpoint is not None
    (checkpoint / "checkpoint.json").unlink()  # as version 0.1 left it
    (checkpoint / "progress-0.pt").write_bytes(b"not to be opened")
    with pytest.raises(
        ConfigError,
        match=r"step-1 was written by fission-grpo 0\.1\.0 \(checkpoint format 1\).* reads format 4: finish",
    ):
        tiny_run(tmp_path, resume=True)


def _halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE: Mapping[str, Callable[[Path], object]] = {
    "lost": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "cut off": _halved,
    "overwritten": lambda path: path.write_bytes(b"not what was written here\n" * 9),
    "another object": lambda path: torch.save(["not a state"], path),
}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with two checkpoints."""
    folder = tmp_path_factory.mktemp("stopped")
    finish(tiny_run(folder), stop_after=3)
    return folder


@pytest.mark.parametrize(
    ("part", "damage"),
    [
        *product(["model/model.safetensors", "optimizer.bin", "progress-0.pt"], DAMAGE),
        *product(["checkpoint.json"], sorted(DAMAGE.keys() - {"lost"})),  # without it, it is version 0.1's
    ],
)
def test_a_damaged_checkpoint_is_moved_aside_and_the_one_before_it_taken(
    tmp_path: Path, stopped: Path, part: str, damage: str
) -> None:
    run = RunFolder(shutil.copytree(stopped, tmp_path / "run"))
    newest = run.checkpoints / "step-3"
    DAMAGE[damage](newest / part)
    before = {path.name: path.read_bytes() for path in newest.rglob("*") if path.is_file()}
    told = rf"{newest} cannot be read: .*; it lies in step-3\.damaged-.* now, and the run goes on from step-2"
    with pytest.warns(UserWarning, match=told):
        resumed = tiny_run(run.path, resume=True)
    assert resumed.state.step == 2
    assert [row["step"] for row in metrics(run)] == [0, 1]
    (aside,) = run.checkpoints.glob("step-3.damaged-*")
    assert {path.name: path.read_bytes() for path in aside.rglob("*") if path.is_file()} == before


def test_behind_a_damaged_checkpoint_the_earlier_one_continues_bit_for_bit(
    tmp_path: Path, stopped: Path, whole: Trainer
) -> None:
    run = RunFolder(shutil.copytree(stopped, tmp_path / "run"))
    _halved(run.checkpoints / "step-3" / "progress-0.pt")
    with pytest.warns(UserWarning, match="goes on from step-2"):
        resumed = tiny_run(run.path, resume=True)
    finish(resumed)
    assert_same_run(resumed, whole)


def test_a_file_that_was_cut_off_where_nobody_looks_is_found(tmp_path: Path, stopped: Path) -> None:
    """accelerate goes on without random states that it cannot read."""
    run = RunFolder(shutil.copytree(stopped, tmp_path / "run"))
    _halved(run.checkpoints / "step-3" / "random_states_0.pkl")
    with pytest.warns(UserWarning, match=r"random_states_0\.pkl has \d+ bytes, expected \d+; .*goes on from step-2"):
        tiny_run(run.path, resume=True)


def test_without_an_earlier_checkpoint_the_way_out_is_to_begin_again(tmp_path: Path, stopped: Path) -> None:
    run = RunFolder(shutil.copytree(stopped, tmp_path / "run"))
    shutil.rmtree(run.checkpoints / "step-2")
    _halved(run.checkpoints / "step-3" / "optimizer.bin")
    with pytest.raises(ConfigError, match=r"step-3 cannot be read: .*; move it aside to start from the beginning"):
        tiny_run(run.path, resume=True)
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["step-3"]


class _Touch:
    """What a pickle runs that does so when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("part", ["progress-0.pt", "optimizer.bin", "random_states_0.pkl"])
@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_checkpoint_runs_no_code(
    tmp_path: Path, stopped: Path, part: str, save: Callable[[object, Path], object]
) -> None:
    """A run folder may come from anybody: its label is made to fit, too."""
    run = RunFolder(shutil.copytree(stopped, tmp_path / "run"))
    checkpoint, mark = run.checkpoints / "step-3", tmp_path / "ran"
    save(_Touch(mark), checkpoint / part)
    label = json.loads((checkpoint / "checkpoint.json").read_text())
    label["files"][part] = (checkpoint / part).stat().st_size
    write_text(checkpoint / "checkpoint.json", json.dumps(label))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tiny_run(run.path, resume=True)
    assert not mark.exists()


def test_a_saved_context_is_plain_data_and_its_world_is_brought_back_by_its_calls(stopped: Path) -> None:
    checkpoint = RunFolder(stopped).latest_checkpoint()
    assert checkpoint is not None
    state = torch.load(checkpoint / "progress-0.pt", weights_only=True)["fission"]
    saved = state["buffer"]["contexts"]
    assert json.loads(json.dumps(saved)) == saved
    assert any(context["calls"] for context in saved)


def test_steps_that_the_metrics_lack_are_told(tmp_path: Path, stopped: Path) -> None:
    run = RunFolder(shutil.copytree(stopped, tmp_path / "run"))
    run.metrics.unlink()
    with pytest.warns(UserWarning, match=r"metrics\.jsonl holds 0 line\(s\) of the 3 step\(s\) so far"):
        tiny_run(run.path, resume=True)


def test_what_diverges_stops_before_it_is_saved(tmp_path: Path) -> None:
    trainer = tiny_run(tmp_path, checkpoint_every=1)
    finish(trainer, stop_after=1)
    with torch.no_grad():
        next(iter(trainer.learner.parameters)).fill_(math.nan)
    with pytest.raises(FissionError, match=r"training has diverged: the norm of the \w+ is nan") as error:
        finish(trainer)
    assert error.value.__notes__ == [f"that was step 1 ({trainer.run.checkpoints / 'step-1'} is whole)"]
    assert [path.name for path in trainer.run.complete_checkpoints()] == ["step-1"]


def test_weights_that_overflow_stop_the_run(tmp_path: Path) -> None:
    with pytest.raises(FissionError, match=r"training has diverged: the norm of the weights is (inf|nan)"):
        finish(tiny_run(tmp_path, learning_rate=1e30))
    assert RunFolder(tmp_path).complete_checkpoints() == []


def test_weights_of_another_model_are_no_checkpoint_of_this_one(tmp_path: Path) -> None:
    finish(tiny_run(tmp_path), stop_after=1)
    other = tiny_model(vocabulary=len(chat().renderer.tokenizer) + 1)
    with pytest.raises(ConfigError, match=r"step-1 cannot be read: RuntimeError: .*size mismatch"):
        tiny_run(tmp_path, model=other, resume=True)


def test_a_copy_of_a_checkpoint_does_not_stop_the_run(tmp_path: Path, whole: Trainer) -> None:
    finish(tiny_run(tmp_path), stop_after=3)
    checkpoints = RunFolder(tmp_path).checkpoints
    shutil.copytree(checkpoints / "step-3", checkpoints / "step-3-backup")
    resumed = tiny_run(tmp_path, resume=True)
    finish(resumed)
    assert_same_run(resumed, whole)
    assert sorted(path.name for path in checkpoints.iterdir()) == ["step-3-backup", "step-4", "step-5"]


def test_a_run_is_resumed_by_as_many_processes_as_began_it(tmp_path: Path) -> None:
    finish(tiny_run(tmp_path), stop_after=1)
    checkpoint = RunFolder(tmp_path).latest_checkpoint()
    assert checkpoint is not None
    label = json.loads((checkpoint / "checkpoint.json").read_text())
    write_text(checkpoint / "checkpoint.json", json.dumps({**label, "processes": 2}))
    with pytest.raises(
        ConfigError, match=r"written by 2 process\(es\), and this run has 1: resume with --num_processes 2"
    ):
        tiny_run(tmp_path, resume=True)


# Adapters.


def lora_model() -> Any:
    return add_lora(warm_model(), LoraSettings(rank=4, alpha=8), seed=0)


def base_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: weight for name, weight in weights(trainer).items() if "lora_" not in name}


def test_a_lora_run_trains_adapters_alone_and_resumes_exactly(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "whole", model=lora_model(), steps=3, learning_rate=1e-2)
    before = weights(run)
    finish(run)
    after = weights(run)
    assert fingerprint(base_of(run)) == fingerprint({name: before[name] for name in base_of(run)})
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed
    assert all("lora_" in name for name in changed)
    assert sorted(path.name for path in run.run.latest_checkpoint().joinpath("model").glob("*.safetensors")) == [  # type: ignore[union-attr]
        "adapter_model.safetensors"
    ]

    finish(tiny_run(tmp_path / "cut", model=lora_model(), steps=3, learning_rate=1e-2), stop_after=1)
    resumed = tiny_run(tmp_path / "cut", model=lora_model(), steps=3, learning_rate=1e-2, resume=True)
    finish(resumed)
    assert_same_run(resumed, run)


# Nothing to learn from.


def test_without_any_signal_nothing_moves(tmp_path: Path) -> None:
    """A policy that has learned nothing fails alike everywhere: dead groups, and not a bit of the weights changes."""
    model = tiny_model(vocabulary=len(chat().renderer.tokenizer))
    trainer = tiny_run(tmp_path, model=model, fission=OFF, steps=2, rollouts=RolloutSettings(max_tokens=2, max_turns=1))
    before = fingerprint(weights(trainer))
    reports = finish(trainer)
    assert fingerprint(weights(trainer)) == before
    for report in reports:
        assert (report.metrics["groups/alive"], report.metrics["update/trained_tokens"]) == (0, 0)


def test_a_world_that_breaks_is_masked_and_the_run_goes_on(tmp_path: Path) -> None:
    calls = 0

    class Unreliable(BfclEnvironment):
        def execute(self, call: ToolCall) -> ToolOutcome:
            nonlocal calls
            calls += 1
            if calls % 2:
                raise EnvironmentFault("lost")
            return super().execute(call)

    trainer = tiny_run(tmp_path, environments={BFCL: Unreliable}, steps=3, horizon=Horizon.TURN)
    finish(trainer)
    invalid = [
        member
        for line in read_jsonl(trainer.run.traces)
        for member in line["trajectories"]
        if member["end"] == "harness_fault"
    ]
    assert invalid
    for member in invalid:
        assert (member["reward"], member["advantage"], member["fault"]) == (None, 0.0, "lost")
        assert member["failure"]["fault"] == "infrastructure"
    assert sum(line["masked"] + line.get("fission/masked", 0) for line in metrics(trainer.run)) == len(invalid)


class NotThisOne(BfclEnvironment):
    """A world that cannot be built for one task, nor brought back for any."""

    def reset(self, task: Task) -> None:
        if task.id == TASKS[0].id:
            raise EnvironmentFault("its database is gone")
        super().reset(task)

    def restore(self, snapshot: Any) -> None:
        raise EnvironmentFault("no way back")


@pytest.mark.parametrize("horizon", [Horizon.CALL, Horizon.TURN])
def test_a_task_whose_world_cannot_be_built_is_masked_and_all_others_go_on(tmp_path: Path, horizon: Horizon) -> None:
    trainer = tiny_run(
        tmp_path, environments={BFCL: NotThisOne}, steps=2, horizon=horizon
    )  # two steps see every task once
    before = fingerprint(weights(trainer))
    finish(trainer)
    lines = list(read_jsonl(trainer.run.traces))
    for line in lines:
        broken = line["kind"] == "fission" or line["task"] == TASKS[0].id
        faults = {member["fault"] for member in line["trajectories"]}
        reason = "no way back" if line["kind"] == "fission" else "its database is gone"
        assert faults == ({reason} if broken else {None})
        assert (line["pulse"] == "masked") == broken
    assert {line["kind"] for line in lines} == {"exploration", "fission"}
    steps = metrics(trainer.run)
    assert sum(step["masked"] for step in steps) == SETTINGS["group_size"]
    recoveries = sum(step.get("fission/rollouts", 0) for step in steps)
    assert sum(step.get("fission/masked", 0) for step in steps) == recoveries > 0
    assert fingerprint(weights(trainer)) != before


# Two processes.


UNEVEN = FissionSettings(contexts=1, group_size=3, trigger=14, capacity=16, per_group=2, own_step=True)
"""The trigger fires in one process before it fires in the other."""


@pytest.mark.parametrize("fission", [FISSION, OFFLINE, UNEVEN], ids=["online", "offline", "a step of its own"])
def test_two_processes_train_one_policy(tmp_path: Path, start: Path, fission: FissionSettings) -> None:
    """Each explores its own tasks; gradients are averaged, so both hold the same weights after every step."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    both = [
        process(tmp_path, start, threads=1, fission=fission, RANK=rank, LOCAL_RANK=rank, **shared)
        for rank in ("0", "1")
    ]
    for one in both:
        one.join(timeout=200)
        one.kill()
    assert [one.exitcode for one in both] == [0, 0]
    first, second = ((tmp_path / f"rank-{rank}").read_text() for rank in range(2))
    assert first == second  # weights, and the gradients of the last step
    checkpoint = RunFolder(tmp_path).latest_checkpoint()
    assert checkpoint is not None
    states = [torch.load(checkpoint / f"progress-{rank}.pt", weights_only=True) for rank in range(2)]
    assert [state["step"] for state in states] == [STEPS, STEPS]
    kept = [{context_from(context).key for context in state["fission"]["buffer"]["contexts"]} for state in states]
    assert kept[0] != kept[1]  # and a buffer or a pool of its own
    used = [state["fission"]["count"]["used"] for state in states]
    assert (used[0] != used[1]) == (fission is UNEVEN)  # one of them made an update for the other's recoveries
