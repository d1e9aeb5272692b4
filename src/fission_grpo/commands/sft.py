"""Supervised fine-tuning by settings: on gold dialogues, on errors with their fixes, or on a file of conversations.

What `fission sft`, the quickstart's demonstrations, and its warm start of a model that needs one do.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path

from accelerate import Accelerator

from fission_grpo.assembly import ENVIRONMENTS, chat_of_run, model_to_train, with_own_environments
from fission_grpo.chat.format import ChatFormat
from fission_grpo.commands.tracking import tracking
from fission_grpo.commands.trained_run import RunSoFar, errors_name_the_run, record_origin
from fission_grpo.config import RunSettings
from fission_grpo.environments.base import Environments
from fission_grpo.errors import ConfigError
from fission_grpo.models.catalog import load_context_window
from fission_grpo.models.folder import save_model_folder
from fission_grpo.models.recomputation import recompute_layers
from fission_grpo.preflight import full_precision_accelerator
from fission_grpo.progress import progress
from fission_grpo.run.folder import RunFolder, quoted
from fission_grpo.run.interruption import Interruption
from fission_grpo.run.lock import writing_into
from fission_grpo.run.trackers import require_trackers
from fission_grpo.tasks.training_set import SYNTHETIC, training_set
from fission_grpo.training.checkpoint import Checkpoints
from fission_grpo.training.conversations import read_conversations
from fission_grpo.training.demonstrations import CLEAN_SHARE, demonstration_rows
from fission_grpo.training.dialogues import gold_dialogue
from fission_grpo.training.supervised import SupervisedRun, SupervisedSettings, SupervisedTrainer, hold_back
from fission_grpo.types import Task, TokenRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Lessons:
    """What is learned, and what is only measured."""

    rows: tuple[TokenRow, ...]
    validation: tuple[TokenRow, ...] = ()
    demonstrations: int = 0
    """Dialogues with an error and its fix, those held back included."""
    clean: int = 0
    """Gold dialogues among them."""
    tasks: tuple[Task, ...] = ()
    """What they were made from; none of conversations."""

    def __str__(self) -> str:
        """For a person."""
        made = f" ({self.demonstrations:,} error-and-fix, {self.clean:,} clean)" if self.tasks else ""
        held = f"; {len(self.validation):,} to validate" if self.validation else ""
        return f"{len(self.rows):,} dialogues{made}{held}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTunedRun(RunSoFar):
    """A supervised run."""

    lessons: Lessons = field(repr=False)

    @property
    def steps(self) -> int:
        """Updates that there are to be."""
        return self.settings.sft.updates(len(self.lessons.rows))

    @property
    def how_to_go_on(self) -> str:
        """For a run that has not finished."""
        return f"continue with: fission sft --resume --output {quoted(self.folder)}"

    def __str__(self) -> str:
        """One line for a person: where the policy is, or how to go on."""
        if not self.finished:
            return f"stopped after update {self.step} of {self.steps}; {self.how_to_go_on}"
        first, last = self.metrics[0], self.metrics[-1]
        held = f", held back {last['validation_loss']:.3f}" if "validation_loss" in last else ""
        return f"policy in {self.policy}; loss {first['loss']:.3f} -> {last['loss']:.3f} nats a token{held}"


def fine_tune(settings: RunSettings, *, resume: bool = False) -> FineTunedRun:
    """Fine-tune the model of some settings, as their section `sft` says. Ctrl-C ends it after its update and saves.

    Args:
        settings: `settings.folder` is where the run keeps its files.
        resume: continue the run in the folder, from the start if it has none.

    Raises:
        ConfigError: values that cannot be, no dialogue at all, no such model, tasks that cannot be drawn or do not say
            what is right; or a folder that cannot be used, or is being written by another process.
        DataError: the file of tasks or conversations has problems.
        FissionError, OSError: something broke later; a note says where the rest is safe.
    """
    settings, run = settings.from_anywhere(), RunFolder(settings.folder)
    saved = settings.saved_for_sft()
    run.check(saved, resume=resume)
    require_trackers(settings.trackers)
    accelerator = full_precision_accelerator()
    if accelerator.num_processes > 1:
        raise ConfigError("fission sft runs in one process; start it without `accelerate launch`")
    chat = chat_of_run(settings)
    shown = lessons(settings, chat)
    trainer = supervised_trainer(settings, shown, accelerator)
    with writing_into(run.path):
        run.create(saved, resume=resume)
        checkpoints = Checkpoints(run, accelerator, trainer)
        if resume:
            checkpoints.resume()
        done = FineTunedRun(settings=settings, lessons=shown, step=trainer.step)
        if not trainer.finished:
            data = settings.sft.messages or settings.data
            record_origin(run.path, settings.model, chat=chat, tasks=shown.tasks, data=data, step=trainer.step)
        supervised = SupervisedRun(
            trainer=trainer,
            validation=shown.validation,
            run=run,
            checkpoints=checkpoints,
            checkpoint_every=settings.trainer.checkpoint_every,
        )
        told = tracking(settings, is_main_process=True)
        with (
            errors_name_the_run(done),
            Interruption() as interruption,
            told as tell,
            progress("sft", total=trainer.settings.steps, done=trainer.step) as show,
        ):

            def report(step: int, metrics: dict[str, float]) -> None:
                words = {"loss": "loss", "validation_loss": "held back"}
                show(step, "  ".join(f"{word} {metrics[name]:.3f}" for name, word in words.items() if name in metrics))
                tell()

            supervised.train(stop=interruption, report=report)
            if trainer.finished:
                with run.refusal_of(run.policy):
                    save_model_folder(trainer.model, chat.tokenizer, run.policy)
    return replace(done, step=trainer.step)


def lessons(settings: RunSettings, chat: ChatFormat) -> Lessons:
    """The rows of some settings, those of the validation apart.

    Raises:
        ConfigError, DataError: see `fine_tune`.
    """
    sft = settings.sft
    found = _lessons_of_tasks(settings, chat) if sft.messages is None else _lessons_of_messages(settings, chat)
    if sft.validation is not None:
        return found
    rows, held = hold_back(found.rows, sft.share_held_back, seed=sft.seed)
    return replace(found, rows=tuple(rows), validation=tuple(held))


def _lessons_of_messages(settings: RunSettings, chat: ChatFormat) -> Lessons:
    window = load_context_window(settings.model)
    learned, measured = (
        () if path is None else tuple(read_conversations(Path(path), chat=chat, window=window))
        for path in (settings.sft.messages, settings.sft.validation)
    )
    return Lessons(rows=learned, validation=measured)


def _lessons_of_tasks(settings: RunSettings, chat: ChatFormat) -> Lessons:
    count, clean, seed = settings.sft.corrupted, settings.sft.clean, settings.sft.seed
    if not (count or clean):
        raise ConfigError("there is nothing to learn: 0 demonstrations and no clean dialogues; ask for --clean 3000")
    environments = with_own_environments(ENVIRONMENTS, settings.environments)
    tasks = _shown(settings, environments, enough=max(count * (1 + CLEAN_SHARE), clean or 0))
    rows = demonstration_rows(
        tasks,
        count=count,
        clean=clean,
        seed=seed,
        chat=chat,
        environments=environments,
        rounds=1 if settings.data == SYNTHETIC else ceil(count / len(tasks)),
    )
    if not rows:
        raise ConfigError(
            f"no error could be injected into the {len(tasks)} task(s) of {settings.data}: that takes a world and gold "
            "calls per turn (`turns`); ask for gold dialogues alone: --demonstrations 0 --clean 100"
        )
    gold = len(rows) - len(rows) // (1 + CLEAN_SHARE) if clean is None else clean
    held = settings.sft.validation
    measured = [] if held is None else _shown(settings.model_copy(update={"data": held}), environments, enough=0)
    return Lessons(
        rows=tuple(rows),
        validation=tuple(gold_dialogue(task, chat=chat, environments=environments) for task in measured),
        demonstrations=len(rows) - gold,
        clean=gold,
        tasks=tuple(tasks),
    )


def _shown(settings: RunSettings, environments: Environments, *, enough: int) -> list[Task]:
    """The tasks of some settings that can be shown, or so many synthesised ones.

    Raises:
        DataError: the file has problems.
        ConfigError: the drawing cannot be done, or no task of the file says what is right.
    """
    synthetic = settings.synthetic.model_copy(update={"count": enough})
    tasks = training_set(settings.data, synthetic, environments=environments)
    shown = [task for task in tasks if task.world is None or task.gold]
    if not shown:
        raise ConfigError(
            f"none of the {len(tasks)} task(s) of {settings.data} says which calls are right, so that there is nothing "
            "to show; add `turns` to them"
        )
    return shown


def supervised_trainer(settings: RunSettings, shown: Lessons, accelerator: Accelerator) -> SupervisedTrainer:
    """Model and optimizer, known to the accelerator, which saves them."""
    sft, trainer = settings.sft, settings.trainer
    model = model_to_train(settings, seed=sft.seed)
    if trainer.gradient_checkpointing:
        recompute_layers(model)
    # Evaluation mode keeps accelerate from wrapping it, as in `Learner`.
    made = SupervisedTrainer(
        accelerator.prepare_model(model, evaluation_mode=True),
        shown.rows,
        SupervisedSettings(
            seed=sft.seed,
            steps=sft.updates(len(shown.rows)),
            batch=sft.batch,
            learning_rate=sft.learning_rate,
            warmup=sft.warmup,
            token_budget=trainer.token_budget,
            tree=trainer.tree,
        ),
    )
    accelerator.prepare_optimizer(made.optimizer)
    return made
