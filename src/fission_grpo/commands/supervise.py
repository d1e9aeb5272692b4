"""The other way to the same end: supervised fine-tuning on a few demonstrations of an error and its fix."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator

from fission_grpo.assembly import ENVIRONMENTS
from fission_grpo.config import RunSettings, validated
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
        count: dialogues that show an error and its fix; drawn from the tasks of the settings. None of them, and some
            clean ones, are an ordinary warm start.
        clean: gold dialogues without an error among them; nine for each of the others unless given.
        steps: updates.
        learning_rate: peak.
        seed: of errors, batches and adapters.

    Raises:
        ConfigError: a folder that holds something else, values that cannot be, no dialogue at all, tasks or
            environments of the user's own, no such model, or tasks that cannot be drawn.
    """
    if not (count or clean):
        raise ConfigError("there is nothing to learn: 0 demonstrations and no clean dialogues; ask for --clean 3000")
    plan = {"seed": seed, "steps": steps, "learning_rate": learning_rate, "tree": settings.trainer.tree}
    supervised = validated(SupervisedSettings, plan)
    _require_synthesised_tasks(settings)
    require_replaceable(output)
    loaded = load_policy_model(settings.model, chat_template=settings.chat_template, precision=settings.precision)
    enough = settings.synthetic.model_copy(update={"count": max(count * (1 + CLEAN_SHARE), clean or 0)})
    tasks = training_set(SYNTHETIC, enough, environments=ENVIRONMENTS)
    rows = demonstration_rows(tasks, count=count, clean=clean, seed=seed, chat=loaded.chat, environments=ENVIRONMENTS)
    model = loaded.model.to(Accelerator().device)
    if settings.lora is not None:
        model = add_lora(model, settings.lora, seed=derive(seed, "lora"))
    with progress("supervise", total=steps) as show:
        losses = supervise(model, rows, supervised, report=lambda step, loss: show(step + 1, f"loss {loss:.3f}"))
    save_model_folder(model, loaded.chat.tokenizer, output)
    gold = len(rows) - len(rows) // (1 + CLEAN_SHARE) if clean is None else min(clean, len(tasks))
    return Demonstrated(policy=output, losses=tuple(losses), demonstrations=len(rows) - gold, clean=gold)


def _require_synthesised_tasks(settings: RunSettings) -> None:
    """Refuse what would be ignored in silence.

    Raises:
        ConfigError: the settings name a file of tasks, or environments.
    """
    own = [f"data={settings.data}"] if settings.data != SYNTHETIC else []
    own += [f"environments.{name}" for name in settings.environments]
    if own:
        raise ConfigError(
            f"{', '.join(own)}: demonstrations are made from synthesised tasks only, since their errors are drawn from "
            "what is known of the official classes; leave this out"
        )
