"""A whole run of the trainer in about a second, here or in a process of its own."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tiny_policies import ENVIRONMENTS, chat, gold_message, in_double_precision, tasks, tiny_model

from fission_grpo.algorithm.context import CorrectiveContext
from fission_grpo.algorithm.judge import Judge
from fission_grpo.algorithm.offline import fission_source
from fission_grpo.algorithm.source import FissionSettings
from fission_grpo.chat.transcript import Transcript
from fission_grpo.environments.base import Environments
from fission_grpo.files import read_jsonl, write_text
from fission_grpo.rollout import RolloutSettings
from fission_grpo.run.folder import RunFolder
from fission_grpo.simulator.base import ErrorSimulator, ReferencedSimulator
from fission_grpo.simulator.rules import RulesSimulator
from fission_grpo.training.dialogues import gold_dialogue
from fission_grpo.training.settings import TrainerSettings
from fission_grpo.training.supervised import SupervisedSettings, supervise
from fission_grpo.training.trainer import StepReport, Trainer
from fission_grpo.types import Completion, FinishReason, Task, TokenRow

TASKS = tasks()[:6]
STEPS = 5
SETTINGS: Mapping[str, Any] = {
    "steps": STEPS,
    "queries": 3,
    "group_size": 4,
    "learning_rate": 1e-3,
    "beta": 0.1,
    "checkpoint_every": 2,
    "token_budget": 1024,
}
ROLLOUTS = RolloutSettings(max_tokens=40, max_turns=2)
FISSION = FissionSettings(contexts=2, group_size=3, trigger=3, per_group=2)
"""Three contexts wanted before two are used: once it has been filled, the buffer is never empty."""
OFF = FissionSettings()
OFFLINE = FissionSettings(contexts=2, group_size=3, per_group=2, pool=4)
"""Contexts from a pool of the starting weights."""


@cache
def _warm() -> Mapping[str, torch.Tensor]:
    """Weights that know what to say, before and after an error, and often get it wrong: groups live, errors abound."""
    model = _cold()
    rows = [
        row for task in TASKS for row in (gold_dialogue(task, chat=chat(), environments=ENVIRONMENTS), _recovery(task))
    ]
    settings = SupervisedSettings(steps=70, batch=4, learning_rate=1.5e-2)
    supervise(model, rows, settings)
    return {name: weight.detach().clone() for name, weight in model.state_dict().items()}


def _cold() -> Any:
    return tiny_model(vocabulary=len(chat().renderer.tokenizer))


def _recovery(task: Task) -> TokenRow:
    """A malformed call, its reply, and the first gold call, which alone is learned."""
    transcript = Transcript(chat().prompt(task.messages, task.tools))
    transcript.given((*chat().renderer.encode("<tool_call>\n{"), chat().eos_id))
    transcript.extend_observed(chat().reply(FinishReason.STOP, ["error: malformed tool call"]))
    gold = gold_message(task)
    ids = tuple(id_ for id_, trained in zip(gold.ids, gold.trained, strict=True) if trained)
    transcript.extend_sampled(Completion(ids=ids, logprobs=(0.0,) * len(ids), finish=FinishReason.STOP))
    return TokenRow(ids=transcript.ids, trained=transcript.sampled)


def warm_model(dtype: torch.dtype = torch.float32) -> Any:
    return model_with(_warm(), dtype)


def model_with(weights: Mapping[str, torch.Tensor], dtype: torch.dtype = torch.float32) -> Any:
    model = _cold()
    model.load_state_dict(weights)
    return in_double_precision(model) if dtype is torch.float64 else model


def tiny_run(
    folder: Path,
    *,
    model: Any = None,
    fission: FissionSettings = FISSION,
    simulator: ErrorSimulator | ReferencedSimulator | None = None,
    environments: Environments = ENVIRONMENTS,
    rollouts: RolloutSettings = ROLLOUTS,
    resume: bool = False,
    **changes: Any,
) -> Trainer:
    """A trainer in its run folder, ready to `train`."""
    settings = TrainerSettings(**{**SETTINGS, **changes})
    trainer = Trainer(
        model or warm_model(),
        chat=chat(),
        tasks=TASKS,
        environments=environments,
        source=fission_source(fission, simulator=simulator or RulesSimulator(), chat=chat(), seed=settings.seed),
        judge=Judge(chat=chat()),
        settings=settings,
        rollouts=rollouts,
        run=RunFolder(folder),
        accelerator=Accelerator(cpu=True),
    )
    if trainer.accelerator.is_main_process:
        trainer.run.create({}, resume=resume)
    trainer.accelerator.wait_for_everyone()
    if resume:
        trainer.checkpoints.resume()
    return trainer


def finish(trainer: Trainer, *, stop_after: int | None = None) -> list[StepReport]:
    """Train to the end, or until a step is done."""
    reports: list[StepReport] = []
    trainer.train(stop=lambda: trainer.state.step == stop_after, report=reports.append)
    return reports


def metrics(run: RunFolder) -> list[dict[str, Any]]:
    """What a run measured, but for how long it took."""
    lines = read_jsonl(run.metrics)
    return [{name: value for name, value in line.items() if not name.startswith("time/")} for line in lines]


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in trainer.learner.model.state_dict().items()}


def fingerprint(weights: Mapping[str, torch.Tensor]) -> str:
    """Equal exactly when all weights are."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].numpy().tobytes())
    return digest.hexdigest()


def buffer_of(trainer: Trainer) -> list[tuple[Any, ...]]:
    """The fission buffer, top last, but for how long calls took."""
    buffer = trainer.source.buffer.state_dict()
    return [(c.key, c.ids, c.depth, c.policy_version, c.parent, _world(c)) for c in buffer["contexts"]]


def _world(context: CorrectiveContext) -> str:
    environment = context.start(ENVIRONMENTS).environment
    return environment.state_hash() if environment else ""


def run_in_process(
    folder: Path, start: Path, threads: int, environment: Mapping[str, str], fission: FissionSettings = FISSION
) -> None:
    """A whole run from the weights in `start`; leaves fingerprints of its last weights and gradients in the folder."""
    trainer = _begun(folder, start, threads, environment, fission)
    finish(trainer)
    gradients = {str(place): p.grad for place, p in enumerate(trainer.learner.parameters) if p.grad is not None}
    rank = trainer.accelerator.process_index
    write_text(folder / f"rank-{rank}", f"{fingerprint(weights(trainer))} {fingerprint(gradients)}")
    trainer.accelerator.end_training()


def run_until_killed(
    folder: Path, start: Path, threads: int, environment: Mapping[str, str], fission: FissionSettings = FISSION
) -> None:
    """The same run, which waits after its last step for ever: no machine is too fast for it to be killed before."""

    def hold(report: StepReport) -> None:
        if report.step == STEPS:
            threading.Event().wait()

    trainer = _begun(folder, start, threads, environment, fission)
    trainer.train(stop=lambda: False, report=hold)


def _begun(
    folder: Path, start: Path, threads: int, environment: Mapping[str, str], fission: FissionSettings
) -> Trainer:
    os.environ.update(environment)
    torch.set_num_threads(threads)
    return tiny_run(folder, model=model_with(torch.load(start)), fission=fission)
