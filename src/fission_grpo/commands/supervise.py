"""The other way to the same end: supervised fine-tuning on a few demonstrations of an error and its fix."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from pathlib import Path

from accelerate import Accelerator

from fission_grpo.assembly import ENVIRONMENTS, with_own_environments
from fission_grpo.config import RunSettings, validated
from fission_grpo.environments.base import Environments
from fission_grpo.errors import ConfigError
from fission_grpo.models.catalog import load_policy_model
from fission_grpo.models.folder import require_replaceable, save_model_folder
from fission_grpo.models.lora import add_lora
from fission_grpo.progress import progress
from fission_grpo.recipes.demonstrations import DIALOGUES, LEARNING_RATE, UPDATES
from fission_grpo.seeds import derive
from fission_grpo.tasks.training_set import SYNTHETIC, training_set
from fission_grpo.training.demonstrations import CLEAN_SHARE, demonstration_rows
from fission_grpo.training.supervised import SupervisedSettings, supervise
from fission_grpo.types import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstrated:
    """A policy that was shown how to recover."""

    policy: Path
    losses: tuple[float, ...]
    """Of every update, in nats per token."""
    demonstrations: int
    """Dialogues with an error and its fix."""
    clean: int
    """Gold dialogues among them."""

    def __str__(self) -> str:
        """One line for a person."""
        return f"policy in {self.policy}; loss {self.losses[0]:.3f} -> {self.losses[-1]:.3f} nats a token"


def demonstrate(
    settings: RunSettings,
    *,
    output: Path,
    count: int = DIALOGUES,
    clean: int | None = None,
    steps: int = UPDATES,
    learning_rate: float = LEARNING_RATE,
    seed: int = 0,
) -> Demonstrated:
    """Fine-tune the model of some settings, and save it.

    Args:
        output: folder for the policy.
        count: dialogues that show an error and its fix; drawn from the tasks of the settings, several of each if these
            are few. None of them, and some clean ones, are an ordinary warm start.
        clean: gold dialogues without an error among them; nine for each of the others unless given.
        steps: updates.
        learning_rate: peak.
        seed: of errors, batches and adapters.

    Raises:
        ConfigError: a folder that holds something else, values that cannot be, no dialogue at all, no such model, or
            tasks that cannot be drawn, or do not say what is right.
        DataError: the task file has problems.
    """
    if not (count or clean):
        raise ConfigError("there is nothing to learn: 0 demonstrations and no clean dialogues; ask for --clean 3000")
    plan = {"seed": seed, "steps": steps, "learning_rate": learning_rate, "tree": settings.trainer.tree}
    supervised = validated(SupervisedSettings, plan)
    require_replaceable(output)
    loaded = load_policy_model(
        settings.model,
        chat_template=settings.chat_template,
        chat_template_kwargs=settings.chat_template_kwargs,
        precision=settings.precision,
    )
    environments = with_own_environments(ENVIRONMENTS, settings.environments)
    tasks = _tasks(settings, environments, enough=max(count * (1 + CLEAN_SHARE), clean or 0))
    rows = demonstration_rows(
        tasks,
        count=count,
        clean=clean,
        seed=seed,
        chat=loaded.chat,
        environments=environments,
        rounds=1 if settings.data == SYNTHETIC else ceil(count / len(tasks)),
    )
    if not rows:
        raise ConfigError(
            f"no error could be injected into the {len(tasks)} task(s) of {settings.data}: that takes a world and gold "
            "calls per turn (`turns`); ask for gold dialogues alone: --demonstrations 0 --clean 100"
        )
    model = loaded.model.to(Accelerator().device)
    if settings.lora is not None:
        model = add_lora(model, settings.lora, seed=derive(seed, "lora"))
    with progress("supervise", total=steps) as show:
        losses = supervise(model, rows, supervised, report=lambda step, loss: show(step + 1, f"loss {loss:.3f}"))
    save_model_folder(model, loaded.chat.tokenizer, output)
    gold = len(rows) - len(rows) // (1 + CLEAN_SHARE) if clean is None else clean
    return Demonstrated(policy=output, losses=tuple(losses), demonstrations=len(rows) - gold, clean=gold)


def _tasks(settings: RunSettings, environments: Environments, *, enough: int) -> list[Task]:
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
