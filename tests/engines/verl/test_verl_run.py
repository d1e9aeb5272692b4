"""Whole runs of `fission train --engine verl` on real Ray and FSDP2, on a CPU: minutes each, so they are marked slow.

Two folders go through it all. One actor rank, recoveries in an update of their own: an Error Simulator whose server is
dead, a worker killed in the middle of a step, the driver killed between two, and twice a new cluster that goes on from
the newest checkpoint. Two actor ranks, recoveries in the update of their step with padding beside them: three steps, a
rank killed behind the second. Each run is a cluster of its own, since most of them have to die.

Beside them, a line of verl's own command gets three keys.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import on_cpu
import psutil
import pytest
import torch
from scripted_server import Handler, good, hang_up, serving

from fission_grpo.algorithm.context import context_from
from fission_grpo.assembly import ENVIRONMENTS
from fission_grpo.config import load_settings
from fission_grpo.engines.verl.state import BUFFER_FILE, NEWEST_FILE
from fission_grpo.files import read_jsonl
from fission_grpo.models.catalog import find_model, load_policy_model
from fission_grpo.run.folder import RunFolder

PATIENCE = 1500
"""Seconds for one run; a start of Ray and verl alone takes a minute of two cores."""
SAMPLING = 0.5
"""Seconds of a processor behind which a server is in the middle of a step; new weights take it a few milliseconds."""
QUERIES, GROUP, CONTEXTS, RECOVERIES = 4, 4, 2, 3
ODD = {"fission.contexts": 1, "fission.group_size": 5}
"""Recoveries that two ranks cannot share without padding."""
OWN_STEP = {"fission.own_step": "true", "trainer.learning_rate": 1e-3}
"""An update between exploration and recoveries that moves the policy far enough to be seen."""
AGREEMENT = 1e-4
"""Between those who sample a token and those who score it with the same weights, in its probability."""
SETTINGS: Mapping[str, Any] = {
    "trainer.queries": QUERIES,
    "trainer.group_size": GROUP,
    "trainer.beta": 0,
    "trainer.objective": "grpo",
    "trainer.checkpoint_every": 1,
    "synthetic.count": 16,
    "rollouts.max_tokens": 48,
    "rollouts.max_turns": 3,
    "fission.contexts": CONTEXTS,
    "fission.group_size": RECOVERIES,
    "fission.trigger": 2,
    "fission.capacity": 8,
    "engine.vllm_window": 1536,
}


def dying(handler: Handler) -> None:
    """A simulator's server that greets whoever asks whether it is there, and dies of every failure it is told."""
    (good() if len(handler.asked["messages"]) == 1 else hang_up)(handler)


def launch(folder: Path, *, steps: int, gpus: int = 1, resume: bool = False, **more: Any) -> subprocess.Popen[str]:
    """The command in a process group of its own; what it says goes to a file beside the run."""
    given = {**SETTINGS, **on_cpu.settings(gpus), **more, "trainer.steps": steps}
    command = ["fission_grpo.cli", "train", "--engine", "verl", "--recipe", "nano"]
    command += ["--output", str(folder), *(["--resume"] if resume else [])]
    return started(folder, [*command, *(f"{name}={value}" for name, value in given.items())])


def started(folder: Path, command: Sequence[str]) -> subprocess.Popen[str]:
    """See `launch`."""
    environment = {**os.environ, **on_cpu.environment()}
    with said(folder).open("a", encoding="utf-8") as log:
        whole = [sys.executable, "-m", *command]
        # Hydra keeps a log of a `main_ppo` line wherever that is typed.
        return subprocess.Popen(
            whole, env=environment, cwd=folder.parent, stdout=log, stderr=log, text=True, start_new_session=True
        )


def said(folder: Path) -> Path:
    return folder.with_suffix(".log")


def words(folder: Path) -> str:
    return said(folder).read_text(encoding="utf-8", errors="replace")


def wait_for(process: subprocess.Popen[str], folder: Path, *, until: Callable[[], bool]) -> None:
    """Until something is there.

    Raises:
        AssertionError: the run ended before, or it takes too long; with its last words.
    """
    end = time.monotonic() + PATIENCE
    while not until():
        assert process.poll() is None, words(folder)[-6000:]
        assert time.monotonic() < end, words(folder)[-6000:]
        time.sleep(0.1)


def finish(process: subprocess.Popen[str], folder: Path) -> int:
    try:
        return process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        raise AssertionError(words(folder)[-6000:]) from None
    finally:
        end_cluster(process)


def end_cluster(process: subprocess.Popen[str]) -> None:
    """Everything that the run has started."""
    for one in [*_children(process), process]:
        try:
            os.kill(one.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


def worker(process: subprocess.Popen[str], name: str) -> psutil.Process:
    """The first Ray process that is called so."""
    return next(child for child in _children(process) if f"ray::{name}" in " ".join(child.cmdline()))


def _children(process: subprocess.Popen[str]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def newest(folder: Path, *, checkpoints: str = "checkpoints") -> int:
    tracker = folder / checkpoints / NEWEST_FILE
    return int(tracker.read_text(encoding="utf-8") or 0) if tracker.exists() else 0


def buffer(folder: Path, step: int) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(folder / f"checkpoints/global_step_{step}/{BUFFER_FILE}", weights_only=True)
    return state


def require_whole(folder: Path, steps: int, *, recoveries: int = RECOVERIES, own_step: bool = False) -> None:
    """One line of metrics for each step, each group once, and updates of the size and loss that the traces say.

    Args:
        recoveries: from each context.
        own_step: there is an update on exploration, and one on recoveries that its weights have sampled.
    """
    run = RunFolder(folder)
    metrics, traces = list(read_jsonl(run.metrics)), list(read_jsonl(run.traces))
    assert [line["step"] for line in metrics] == list(range(steps))
    for line in metrics:
        groups = [one for one in traces if one["step"] == line["step"]]
        explored = [one for one in groups if one["kind"] == "exploration"]
        recovered = [one for one in groups if one["kind"] == "fission"]
        assert [len(one["trajectories"]) for one in groups] == [GROUP] * QUERIES + [recoveries] * len(recovered)
        assert len(recovered) == line["fission/contexts"] <= CONTEXTS
        assert line["update/loss"] == pytest.approx(expected_loss(explored if own_step else groups), abs=1e-5)
        assert line["training/rollout_probs_diff_max"] < AGREEMENT
        assert line["prefix_tree/sharing"] > 1.5  # the tree's engine made the update
        if own_step and recovered:
            assert line["fission/actor/pg_loss"] == pytest.approx(expected_loss(recovered), abs=1e-5)
            assert line["fission/training/rollout_probs_diff_max"] < AGREEMENT
    assert any(one["kind"] == "fission" for one in traces)
    for one in traces:  # a recovery begins with what failed in its parent, token by token
        if one["parent"]:
            (parent,) = [other for other in traces if other["group"] == one["parent"]["group"]]
            failed = parent["trajectories"][one["parent"]["trajectory"]]
            before = [*parent["prompt_ids"], *failed["ids"]]
            cut = len(parent["prompt_ids"]) + failed["sampled"][one["parent"]["turn"]][1]
            assert one["prompt_ids"][:cut] == before[:cut]


def expected_loss(groups: list[dict[str, Any]]) -> float:
    """GRPO's on the policy that sampled, where every ratio is 1: minus the mean advantage of all trained tokens."""
    counted = [one for each in groups for one in each["trajectories"] if one["reward"] is not None]
    lengths = [sum(stop - start for start, stop in one["sampled"]) for one in counted]
    return -sum(one["advantage"] * length for one, length in zip(counted, lengths, strict=True)) / sum(lengths)


@pytest.mark.slow
@pytest.mark.timeout(4 * PATIENCE)
def test_a_run_survives_its_simulator_a_worker_and_its_driver(tmp_path: Path) -> None:
    with serving(dying) as server:
        kept = f"{{server: {{url: '{server.url}', model: the-model, attempts: 1}}}}"
        require_survival(tmp_path / "run", simulator="endpoint", simulator_endpoint=kept, **OWN_STEP)
    assert any(len(one.body["messages"]) > 1 for one in server.received)


def require_survival(folder: Path, **changes: Any) -> None:
    """See the head of this module."""
    run = RunFolder(folder)

    process = launch(folder, steps=4, **changes)
    wait_for(process, folder, until=lambda: newest(folder) == 1)
    server = worker(process, "CpuServer")
    spent = server.cpu_times().user
    wait_for(process, folder, until=lambda: server.cpu_times().user > spent + SAMPLING)
    worker(process, "AgentLoopWorker").kill()
    assert finish(process, folder) != 0
    assert "a Ray worker has died" in words(folder)
    assert newest(folder) == 1
    left = buffer(folder, 1)

    process = launch(folder, steps=4, resume=True, **changes)
    wait_for(process, folder, until=lambda: newest(folder) == 2)
    worker(process, "TaskRunner").kill()
    assert finish(process, folder) != 0
    step = newest(folder)
    assert step in (2, 3)  # the next one may have come to its end in between
    assert buffer(folder, 1) == left

    process = launch(folder, steps=4, resume=True, **changes)
    assert finish(process, folder) == 0
    require_whole(folder, 4, own_step=True)
    counts = [buffer(folder, step)["count"]["used"] for step in (2, 3, 4)]
    assert counts == sorted(counts)
    told = [one for one in read_jsonl(run.traces) if one["kind"] == "fission"]
    assert {one["feedback_fallback"] for one in told} <= {
        "unanswered",
        "resting",
        "broken",
    }  # nobody answered, and it went on

    assert load_settings(file=run.config).engine.name == "verl"
    trained, start = load_policy_model(str(run.policy)), load_policy_model("nano")
    assert trained.chat.tokenizer.chat_template == start.chat.tokenizer.chat_template
    before = start.model.state_dict()
    assert any(not torch.equal(weight, before[name]) for name, weight in trained.model.state_dict().items())
    for one in buffer(folder, 4)["buffer"]["contexts"]:  # as a checkpoint brings them back: by their calls
        begun = context_from(one).start(ENVIRONMENTS)
        assert begun.fault == ""


@pytest.mark.slow
@pytest.mark.timeout(4 * PATIENCE)
def test_two_ranks_make_the_update_of_one(tmp_path: Path) -> None:
    """FSDP2 over two processes: rows are spread, padded to an even number, and weigh what they weigh on one."""
    folder = tmp_path / "two"
    process = launch(folder, steps=3, gpus=2, **ODD)
    wait_for(process, folder, until=lambda: newest(folder) == 2)
    worker(process, "WorkerDict").kill()
    assert finish(process, folder) != 0
    assert newest(folder) == 2
    assert finish(launch(folder, steps=3, gpus=2, resume=True, **ODD), folder) == 0
    require_whole(folder, 3, recoveries=5)


# Somebody's own, without a word of fission.
LINE = {
    "data.train_batch_size": QUERIES,
    "data.dataloader_num_workers": 0,
    "data.max_prompt_length": 1024,
    "data.max_response_length": 512,
    "actor_rollout_ref.rollout.n": GROUP,
    "actor_rollout_ref.rollout.max_model_len": 1536,
    "actor_rollout_ref.rollout.tensor_model_parallel_size": 1,
    "actor_rollout_ref.rollout.calculate_log_probs": True,
    "actor_rollout_ref.actor.strategy": "fsdp2",
    "actor_rollout_ref.actor.ppo_mini_batch_size": QUERIES,
    "actor_rollout_ref.actor.use_dynamic_bsz": True,
    "actor_rollout_ref.actor.clip_ratio_c": 1e6,
    "actor_rollout_ref.actor.fsdp_config.mixed_precision": "{param_dtype: fp32}",
    "critic.enable": False,
    "trainer.logger": "[console]",
    "trainer.nnodes": 1,
    "trainer.n_gpus_per_node": 1,
    "trainer.total_training_steps": 1,
    "trainer.save_freq": 1,
    "trainer.val_before_train": False,
    "trainer.test_freq": -1,
}
THREE_KEYS = {"trainer.v1.trainer_mode": "fission", "algorithm.adv_estimator": "fission_grpo"}
"""And `data.fission`, a file."""


@pytest.mark.slow
@pytest.mark.timeout(2 * PATIENCE)
def test_three_keys_in_a_line_of_verl_s_own(tmp_path: Path) -> None:
    """verl finds the plug-in by itself, and there is a run folder of ours beside its checkpoints."""
    folder, file = tmp_path / "line", tmp_path / "fission.yaml"
    file.write_text(
        f"fission: {{contexts: {CONTEXTS}, group_size: {RECOVERIES}, horizon: call, capacity: 8}}\n"
        "synthetic: {count: 16, apis: [TradingBot], tools: [4, 6]}\n"
        "rollouts: {max_tokens: 48}\n",
        encoding="utf-8",
    )
    on_a_cpu = {name.removeprefix("engine.verl."): value for name, value in on_cpu.settings().items()}
    theirs = {
        **LINE,
        **{name: value for name, value in on_a_cpu.items() if not name.startswith("engine.")},
        "actor_rollout_ref.model.path": find_model("nano").folder,
        "trainer.default_local_dir": folder,
        **THREE_KEYS,
        "data.fission": file,
    }
    command = ["verl.trainer.main_ppo", *(f"++{name}={value}" for name, value in theirs.items())]
    assert finish(started(folder, command), folder) == 0
    assert newest(folder, checkpoints=".") == 1
    require_whole(folder / "fission", 1)
