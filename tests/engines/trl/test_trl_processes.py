"""Processes: each with its own buffer and the same weights; killed ones go on bit for bit, and so do runs whose server
was killed; a full disk says so."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
from mortal_server import Mortal, mortal_server
from tiny_trl import STEPS, buffer_of, call, config, fingerprint, run_steps, tiny_trainer, tokenizer

from fission_grpo.chat.format import ChatFormat
from fission_grpo.engines.trl import FissionGRPOTrainer
from fission_grpo.engines.trl.policy import served
from fission_grpo.engines.trl.state import latest_checkpoint, read_state
from fission_grpo.errors import ConfigError, FissionError, PolicyError
from fission_grpo.models.catalog import load_chat
from fission_grpo.policy.vllm import VLLMPolicy

SAVED = {"save_strategy": "steps", "save_steps": 2, "max_steps": STEPS}


@pytest.fixture(scope="module", autouse=True)
def server() -> None:
    """A process that imports everything; from it others start at once, with clean threads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))  # Python 3.11 forgets to pass it on
        forkserver.set_forkserver_preload(["tiny_trl", "mortal_server"])
        forkserver.ensure_running()


def process(
    folder: Path, *, die_in: int | None = None, environment: Mapping[str, str] | None = None, **changes: Any
) -> ForkServerProcess:
    made = multiprocessing.get_context("forkserver").Process(
        target=run_steps, args=(folder, environment or {}, changes, die_in), daemon=True
    )
    made.start()
    return made


def test_a_killed_run_continues_bit_for_bit(tmp_path: Path) -> None:
    """SIGKILL in the fourth step; the checkpoint of the second leads to the same weights and the same buffer."""
    victim = process(tmp_path / "killed", die_in=3)
    whole = tiny_trainer(tmp_path / "whole", **SAVED)
    whole.train()
    victim.join()
    assert victim.exitcode == -signal.SIGKILL
    assert sorted(path.name for path in (tmp_path / "killed").glob("checkpoint-*")) == ["checkpoint-2"]
    resumed = tiny_trainer(tmp_path / "killed", **SAVED)
    resumed.train(resume_from_checkpoint=True)
    assert len(buffer_of(resumed)) > 0
    assert (resumed.state.global_step, fingerprint(resumed)) == (STEPS, fingerprint(whole))


def asking(server: Mortal, folder: Path, **given: Any) -> FissionGRPOTrainer:
    """A trainer whose policy is behind a server; it saves after every second step."""
    given["policy"] = lambda trainer: VLLMPolicy(server.settings, chat=trainer.chat)
    return tiny_trainer(folder, given={**given, "reward_funcs": None}, max_completion_length=40, **SAVED)


def test_a_server_that_dies_in_the_middle_of_a_step_loses_nothing(tmp_path: Path) -> None:
    """Killed at the fifth request of the third step, with others under way; a living one leads to the same weights."""
    answers = [call(1), call(2), call(-1), "Done."]
    with mortal_server(answers) as server:
        whole = asking(server, tmp_path / "whole")
        whole.train()
    with mortal_server(answers) as server:
        victim = asking(server, tmp_path / "run", on_step=lambda step, _: server.die_at(5) if step == 1 else None)
        with pytest.raises(PolicyError, match=r"gives no sampled token ids: .*; start the server") as caught:
            victim.train()
        assert server.exit_code() == -signal.SIGKILL
    assert "\n" not in str(caught.value)
    assert victim.state.global_step == 2
    assert latest_checkpoint(tmp_path / "run") == tmp_path / "run" / "checkpoint-2"
    with mortal_server(answers) as server:
        resumed = asking(server, tmp_path / "run")
        resumed.train(resume_from_checkpoint=True)
    assert len(buffer_of(resumed)) > 0
    assert (resumed.state.global_step, fingerprint(resumed)) == (STEPS, fingerprint(whole))


def test_the_server_that_trl_pushes_to_is_looked_at_before_a_model_is_loaded(tmp_path: Path) -> None:
    with mortal_server(["Done."]) as server:
        args = config(tmp_path, use_vllm=True, vllm_mode="server", vllm_server_base_url=server.url)
        assert served(args, ChatFormat(tokenizer())).server.model == "the-model"
        with pytest.raises(ConfigError, match="with model 'the-model' has another tokenizer: it reads a text of"):
            served(args, load_chat("nano"))
    with pytest.raises(ConfigError, match=r"gives no list of vLLM's models: no connection .*tried 2 time\(s\)"):
        served(args, ChatFormat(tokenizer()), patience=1.0)


def test_two_processes_agree_on_the_weights_and_keep_a_buffer_each(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
    both = [
        process(tmp_path, environment={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}, loss_type="grpo")
        for rank in (0, 1)
    ]
    for one in both:
        one.join()
    assert [one.exitcode for one in both] == [0, 0]
    states = [(tmp_path / f"rank-{rank}").read_text().split() for rank in (0, 1)]
    assert states[0][0] == states[1][0]  # weights
    assert states[0][1] != states[1][1]  # buffers
    kept = sorted(path.name for path in (tmp_path / f"checkpoint-{STEPS}").glob("fission-*.pt"))
    assert kept == ["fission-0.pt", "fission-1.pt"]
    with pytest.raises(ConfigError, match="was written by 2 process"):
        tiny_trainer(tmp_path, **SAVED).train(resume_from_checkpoint=True)


def test_a_checkpoint_of_plain_trl_begins_with_an_empty_buffer(tmp_path: Path) -> None:
    tiny_trainer(tmp_path, **{**SAVED, "max_steps": 2}).train()
    (tmp_path / "checkpoint-2" / "fission-0.pt").unlink()
    assert read_state(tmp_path / "checkpoint-2", rank=0, ranks=1) is None


def test_a_damaged_buffer_is_told_in_a_sentence(tmp_path: Path) -> None:
    tiny_trainer(tmp_path, **{**SAVED, "max_steps": 2}).train()
    (tmp_path / "checkpoint-2" / "fission-0.pt").write_bytes(b"half a")
    with pytest.raises(ConfigError, match=r"fission-0\.pt cannot be read: .*; resume from an older checkpoint"):
        tiny_trainer(tmp_path, **SAVED).train(resume_from_checkpoint=True)


@contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    """A disk that is full, as far as a process without privileges can have one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_at_a_checkpoint_says_what_is_safe_and_leaves_no_half_one(tmp_path: Path) -> None:
    tiny_trainer(tmp_path, **{**SAVED, "max_steps": 2}).train()
    again = tiny_trainer(tmp_path, **SAVED)
    with (
        no_file_longer_than(10_000),
        pytest.raises(FissionError, match=r"cannot write .*checkpoint-4: .*free some space.*checkpoint-2 is whole"),
    ):
        again.train(resume_from_checkpoint=True)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]
    last = tiny_trainer(tmp_path, **SAVED)
    last.train(resume_from_checkpoint=True)
    assert last.state.global_step == STEPS
