"""Scripts as TRL's documentation writes them run with one import changed, and so does the command line."""

from __future__ import annotations

import json
import os
import random
import runpy
import signal
import sys
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import trl
from datasets import Dataset, IterableDataset
from tiny_trl import Counter, call, model, scripted, tokenizer
from trl import GRPOConfig
from typer.testing import CliRunner

from fission_grpo import recipe, train
from fission_grpo.chat.parse import render_call
from fission_grpo.cli import app
from fission_grpo.cli.options import WRONG_INPUT
from fission_grpo.commands import train as train_command
from fission_grpo.commands import train_trl
from fission_grpo.engines.trl import FissionGRPOTrainer as GRPOTrainer
from fission_grpo.engines.trl import contract, inputs
from fission_grpo.engines.trl.policy import ColocatedVLLM
from fission_grpo.files import read_jsonl
from fission_grpo.models.folder import save_model_folder
from fission_grpo.policy.base import Sampling
from fission_grpo.run.folder import RunFolder
from fission_grpo.types import Completion, FinishReason, ToolCall

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are written aside; the examples are where the commands name them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(EXAMPLES)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in [name for name in sys.modules if name.partition(".")[0] == "examples"]:
        monkeypatch.delitem(sys.modules, name)


class Guess:
    """Makes up its own task; says what it wants, and judges itself."""

    def reset(self, **kwargs: Any) -> str:
        self.wanted, self.last = random.randint(1, 9), 0
        return f"Guess a number up to 9; it is not {self.wanted - 1}."

    def guess(self, number: int) -> str:
        """Guess the number.

        Args:
            number: your guess
        """
        if number > 9:
            raise ValueError(f"{number} is above 9")
        self.last = number
        return "right" if number == self.wanted else "wrong"

    def get_reward(self) -> float:
        return float(self.last == self.wanted)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A model by its place, as `model="Qwen/Qwen3-0.6B"` would be."""
    save_model_folder(model("qwen3"), tokenizer(), tmp_path / "model")
    return str(tmp_path / "model")


SMALL = {
    "use_cpu": True,
    "per_device_train_batch_size": 4,
    "num_generations": 4,
    "max_completion_length": 8,
    "report_to": [],
}


def test_the_script_in_trls_documentation_of_its_trainer_runs_with_one_import_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As TRL prints it; only what it would download or lacks lies here under the same name. TRL itself asks for
    `use_cpu` where there is no GPU, and the answers are short for the sake of time."""
    example = str(trl.GRPOTrainer.__doc__).split("```python")[1].split("```")[0]
    lines = [line.strip()[4:] for line in example.strip().splitlines()]
    script = "\n".join(lines).replace("from trl import", "from fission_grpo.engines.trl import FissionGRPOTrainer as")
    assert script.count("FissionGRPOTrainer as GRPOTrainer") == 1
    names = [word for word in script.split('"') if "/" in word]
    (dataset,) = (name for name in names if f'load_dataset("{name}"' in script)
    (policy,) = (name for name in names if name != dataset)
    save_model_folder(model("qwen3"), tokenizer(), tmp_path / policy)
    (tmp_path / dataset).mkdir(parents=True)
    row = {"prompt": [{"role": "user", "content": "Count."}], "solution": "1"}
    (tmp_path / dataset / "train.jsonl").write_text(json.dumps(row) + "\n")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))

    def accuracy_reward(completions: Any, solution: list[str], **kwargs: Any) -> list[float]:
        assert solution == ["1"] * len(completions)
        return [float(len(said[0]["content"]) % 2) for said in completions]

    monkeypatch.setattr("trl.rewards.accuracy_reward", accuracy_reward)  # TRL's needs a package for mathematics
    monkeypatch.setattr(inputs, "GRPOConfig", partial(GRPOConfig, use_cpu=True, max_completion_length=16))
    (tmp_path / "script.py").write_text(script)
    trainer = runpy.run_path("script.py")["trainer"]
    assert isinstance(trainer, GRPOTrainer)
    assert trainer.state.global_step == trainer.state.max_steps == 3  # epochs of one row
    assert "rewards/accuracy_reward/mean" in trainer.state.log_history[0]


class Echo:
    """Of the kind in TRL's guide to environments: it says nothing at first, and keeps a reward for a function."""

    def __init__(self) -> None:
        self.reward = 0.0

    def reset(self, **kwargs: Any) -> str | None:
        self.reward = 0.0
        return None

    def echo(self, message: str) -> str:
        """
        Say the message again.

        Args:
            message: What to say again

        Returns:
            The same message.
        """
        self.reward = len(message) / 10
        return message


def test_a_script_of_the_kind_in_trls_guide_to_environments_runs(folder: str) -> None:
    def reward_func(environments: Any, **kwargs: Any) -> list[float]:
        return [environment.reward for environment in environments]

    asked = [{"role": "user", "content": "Say 'Hello' with the tool."}]
    trainer = GRPOTrainer(
        model=folder,
        train_dataset=Dataset.from_dict({"prompt": [asked] * 2}),
        reward_funcs=reward_func,
        args=GRPOConfig(
            chat_template_kwargs={"enable_thinking": False},
            log_completions=True,
            max_steps=1,
            max_completion_length=128,
            use_cpu=True,
        ),
        environment_factory=Echo,
        policy=scripted(
            *(render_call(ToolCall(name="echo", arguments={"message": "Hello" * count})) for count in (1, 2)), "Hello."
        ),
    )
    trainer.train()
    (logged, *_) = trainer.state.log_history
    # Half a point, a whole one and none, in turn, for eight siblings.
    assert logged["rewards/reward_func/mean"] == pytest.approx((3 * 0.5 + 3 * 1.0) / 8)


def test_an_environment_that_makes_up_its_tasks_needs_nothing_else(folder: str) -> None:
    """No data set, no reward function, no fission settings; what TRL switches on by itself stays on."""
    trainer = GRPOTrainer(
        model=folder,
        args=GRPOConfig(max_steps=2, logging_steps=1, chat_template_kwargs={"enable_thinking": False}, **SMALL),
        environment_factory=Guess,
    )
    trainer.train()
    first, second, *_ = trainer.state.log_history
    assert {"rewards/Guess/mean", "fission/success", "prefix_tree/sharing"} <= first.keys()
    assert second["fission/contexts"] > 0  # random answers are cut off, and that is an error
    assert trainer.fission.source.settings.contexts == 1


def test_rows_of_a_data_set_reach_reset_and_functions_look_into_worlds(folder: str) -> None:
    rows = [{"prompt": [{"role": "user", "content": "Count."}], "target": target} for target in (1, 2, 3, 4)]
    seen: list[int] = []

    def reward_func(environments: Any, target: Any, **kwargs: Any) -> list[float]:
        assert [one.target for one in environments] == target
        seen.extend(target)
        return [float(one.count) for one in environments]

    trainer = GRPOTrainer(
        model=folder,
        train_dataset=IterableDataset.from_generator(lambda: iter(rows)),
        reward_funcs=reward_func,
        args=GRPOConfig(max_steps=1, **SMALL),
        environment_factory=Counter,
    )
    trainer.train()
    assert len(set(seen)) == 1


def test_several_environments_are_chosen_by_the_data_set(folder: str) -> None:
    rows = Dataset.from_dict({"environment": ["guess", "count"] * 2, "target": [1] * 4})
    trainer = GRPOTrainer(
        model=folder,
        train_dataset=rows,
        args=GRPOConfig(max_steps=1, **{**SMALL, "per_device_train_batch_size": 16}),
        environment_factory={"guess": Guess, "count": Counter},
    )
    trainer.train()
    assert {"rewards/Guess/mean", "rewards/Counter/mean"} <= trainer.state.log_history[0].keys()


def test_the_example_trains(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["train_with_trl.py", "--steps", "1"])
    runpy.run_path("examples/train_with_trl.py", run_name="__main__")
    assert "right in the end: " in capsys.readouterr().out


# From the shell.

TINY = {
    "trainer.steps": 2,
    "trainer.queries": 2,
    "trainer.group_size": 2,
    "trainer.checkpoint_every": 1,
    "fission.contexts": 1,
    "fission.group_size": 2,
    "rollouts.max_turns": 2,
    "data": "examples/own_tools.jsonl",
    "environments": {"helpdesk": "examples.own_tools:HelpDesk"},
}


def typed(*words: str, **changes: Any) -> list[str]:
    written = {**TINY, **{name.replace("__", "."): value for name, value in changes.items()}}
    return [
        "train",
        "--engine",
        "trl",
        "--recipe",
        "nano",
        *words,
        *(f"{name}={value}" for name, value in written.items()),
    ]


def said(*words: str) -> str:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, done.output
    return done.output


def test_the_command_line_trains_in_a_run_folder_goes_on_and_evaluates() -> None:
    assert "policy in runs/trl/policy" in said(*typed("--output", "runs/trl"))
    run = RunFolder(Path("runs/trl"))
    lines = list(read_jsonl(run.metrics))
    assert [line["step"] for line in lines] == [0, 1]
    assert {"reward", "fission/contexts", "update/loss", "update/kl"} <= lines[0].keys()
    assert {line["step"] for line in read_jsonl(run.traces)} == {0, 1}
    assert sorted(path.name for path in run.checkpoints.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]
    said("train", "--resume", "--output", "runs/trl", "trainer.steps=3")
    assert [line["step"] for line in read_jsonl(run.metrics)] == [0, 1, 2]
    refused = CliRunner().invoke(app, ["train", "--resume", "--output", "runs/trl", "--engine", "own"])
    assert "was started with other settings (engine.name)" in refused.output
    assert "Final success" in said("eval", "tasks", "examples/own_tools_heldout.jsonl", "--run", "runs/trl")


def test_ctrl_c_ends_after_the_step_and_the_run_goes_on() -> None:
    """The signal comes in the first step, from a world."""
    from examples.own_tools import HelpDesk

    class Impatient(HelpDesk):
        def score(self) -> float:
            if Path("runs/trl/config.yaml").exists() and not Path("asked").exists():
                Path("asked").touch()
                os.kill(os.getpid(), signal.SIGINT)
            return super().score()

    settings = recipe("nano", {**TINY, "engine.name": "trl", "output": "runs/trl", "environments": {}})
    tasks = list(read_jsonl(Path("examples/own_tools.jsonl")))
    stopped = train(settings, tasks=tasks, environments={"helpdesk": Impatient})
    assert (stopped.step, stopped.finished) == (1, False)
    assert not stopped.policy.exists()
    finished = train(settings, tasks=tasks, environments={"helpdesk": HelpDesk}, resume=True)
    assert (finished.finished, finished.policy.is_dir()) == (True, True)
    assert train(settings, tasks=tasks, environments={"helpdesk": HelpDesk}, resume=True).finished


def test_a_micro_batch_of_half_a_group_trains() -> None:
    said(*typed("--output", "runs/half", trainer__steps=1, engine__micro_batch=1))
    assert [line["step"] for line in read_jsonl(Path("runs/half/metrics.jsonl"))] == [0]


def test_a_run_that_was_launched_otherwise_is_told_how() -> None:
    refused = CliRunner().invoke(app, typed("--output", "runs/none", engine__gpus=8))
    assert refused.exit_code == WRONG_INPUT
    assert "accelerate launch --config_file deploy/accelerate/ddp.yaml --num_processes 8" in " ".join(
        refused.output.split()
    )
    assert not Path("runs").exists()


def test_a_dry_run_says_what_trl_is_given_and_writes_nothing() -> None:
    told = said(*typed("--dry-run", "--output", "runs/none"))
    assert "6 rows for each process, in 2 micro-batches" in told
    assert "loss_type: grpo" in told
    assert "of one GPU, at most: 3 rows" in told
    assert "engine.gpu_memory is not given" in told
    assert told.splitlines()[-1] == "start        fission train ..."
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"trainer__objective": "dapo"}, "trainer.objective=dapo is not known to TRL; choose one of grpo"),
        ({"trainer__turn_queries": 1}, "turn_queries=1 is a control of our own loop"),
        ({"fission__own_step": True}, "two updates a step"),
    ],
)
def test_what_trl_cannot_do_is_refused_before_anything_is_written(changes: dict[str, Any], sentence: str) -> None:
    for words in ((), ("--dry-run",)):
        refused = CliRunner().invoke(app, typed(*words, "--output", "runs/none", **changes))
        assert refused.exit_code == WRONG_INPUT
        assert sentence in " ".join(refused.output.split())
    assert not Path("runs/none/config.yaml").exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"trainer__queries": 500}, "rows, and each step of 1 process(es) explores 500; add tasks, or lower"),
        ({"engine__vllm": "server", "engine__vllm_url": "http://127.0.0.1:9"}, "pip install 'trl[vllm]'"),
    ],
)
def test_what_cannot_work_is_refused_before_weights_are_loaded(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], sentence: str
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(train_trl, "load_weights", never)
    refused = CliRunner().invoke(app, typed("--output", "runs/none", **changes))
    assert refused.exit_code == WRONG_INPUT
    assert sentence in " ".join(refused.output.split())


def test_another_trl_is_refused_by_the_command_line_and_by_its_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "TESTED", "1.15.2")
    for words in ((), ("--dry-run",)):
        refused = CliRunner().invoke(app, typed(*words, "--output", "runs/none"))
        assert refused.exit_code == WRONG_INPUT
        assert "this engine is proved with 1.15.2: install trl==1.15.2" in " ".join(refused.output.split())
    assert not Path("runs").exists()


def test_without_the_extra_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_command, "find_spec", lambda name: None if name == "trl" else find_spec(name))
    refused = CliRunner().invoke(app, typed("--output", "runs/none"))
    assert "pip install 'fission-grpo[trl]'" in " ".join(refused.output.split())


# TRL's vLLM, as far as it can be seen without one: what stands in for it answers as its source says.


class StandIn:
    """`trl.generation.vllm_generation.VLLMGeneration.generate`, by a script."""

    max_completion_length = 0

    def __init__(self, trainer: Any, *answers: str) -> None:
        self.policy = scripted(*answers)(trainer)
        self.rounds: list[int] = []

    def generate(self, prompts: list[list[int]], images: None, num_generations: int) -> Any:
        assert (images, num_generations) == (None, 1)
        self.rounds.append(len(prompts))
        sampling = Sampling(max_tokens=self.max_completion_length)
        told = self.policy.generate([tuple(one) for one in prompts], sampling=sampling, seed=0)
        ids = [list(one.ids) for one in told]
        logprobs = [[[None if place == 0 else -0.5] for place, _ in enumerate(one)] for one in ids]
        return prompts, ids, logprobs, [[[token] for token in one] for one in ids]


def test_a_colocated_vllm_is_asked_in_rounds() -> None:
    generation = StandIn(None, call(1), "Done.")
    policy = ColocatedVLLM(generation, eos_id=tokenizer().eos_token_id, window=512)
    told: dict[int, list[Completion]] = {0: [], 1: [], 2: []}
    head = tuple(tokenizer()("<|im_start|>assistant\n")["input_ids"])

    def reply(index: int, completion: Completion) -> Sequence[int] | None:
        told[index].append(completion)
        return (*head, *completion.ids, *head) if len(told[index]) == 1 and index != 1 else None

    policy.converse([head] * 3, reply=reply, sampling=Sampling(max_tokens=40), seed=0)
    assert generation.rounds == [3, 2]
    assert [len(each) for each in told.values()] == [2, 1, 2]
    assert all(one.finish is FinishReason.STOP for each in told.values() for one in each)
    assert told[0][0].logprobs[0] != told[0][0].logprobs[0]  # vLLM could not tell it
    assert set(told[0][0].logprobs[1:]) == {-0.5}
    cut: list[Completion] = []
    policy.converse([head], reply=lambda index, one: cut.append(one), sampling=Sampling(max_tokens=2), seed=0)
    assert [one.finish for one in cut] == [FinishReason.LENGTH]
