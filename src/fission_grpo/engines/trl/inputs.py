"""What a TRL user passes, brought into the form that is needed here; nothing is loaded but the tokenizer."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from transformers import AutoProcessor, PreTrainedTokenizerBase
from trl import GRPOConfig

from fission_grpo.chat.format import ChatFormat
from fission_grpo.engines.trl.rows import TOTAL
from fission_grpo.engines.trl.tasks import NO_PROMPT, EnvironmentRows, KnownTasks, TaskReader, rows_naming
from fission_grpo.environments.functions.imported import environments_of
from fission_grpo.errors import ConfigError
from fission_grpo.types import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Data sets for TRL, and what their rows mean to us."""

    reader: TaskReader
    train_dataset: Any
    eval_dataset: Any
    functions: list[Callable[..., Any]]
    """The user's reward functions."""
    columns: list[str]
    """Rewards that are nobody's function: a world's own, or the total of a judge of ours."""


def given_tasks(tasks: Sequence[Task], eval_tasks: Sequence[Task], environments: Mapping[str, Any]) -> Inputs:
    """Tasks and environments of ours."""
    return Inputs(
        reader=KnownTasks([*tasks, *eval_tasks], environments_of(environments)),
        train_dataset=rows_of_tasks(tasks),
        eval_dataset=rows_of_tasks(eval_tasks),
        functions=[],
        columns=[TOTAL],
    )


def given_rows(
    args: Any, train_dataset: Any, eval_dataset: Any, *, reward_funcs: Any, environment_factory: Any, tools: Any
) -> Inputs:
    """TRL's own: data sets, reward functions, environments and tools.

    Raises:
        ConfigError: they cannot work, or nothing gives a reward.
    """
    reader = EnvironmentRows(environment_factory, tools or ())
    if train_dataset is None:
        if environment_factory is None:
            raise ConfigError("got neither train_dataset, environment_factory nor tasks; give one of them")
        train_dataset = rows_for_worlds(args, routed=isinstance(environment_factory, Mapping))
    functions = functions_of(reward_funcs)
    if not functions and not reader.reward_names:
        raise ConfigError("nothing gives a reward; add reward_funcs, or get_reward() to the environment")
    return Inputs(
        reader=reader,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        functions=functions,
        columns=reader.reward_names,
    )


def config_of(args: Any, model: Any) -> Any:
    """The `GRPOConfig`, or the one that TRL would make."""
    return args or GRPOConfig(f"{_name(model).split('/')[-1]}-GRPO")


def tokenizer_of(processing_class: Any, model: Any) -> PreTrainedTokenizerBase:
    """The tokenizer, loaded as TRL would load it if there is none.

    Raises:
        ConfigError: it is the processor of a model that sees.
    """
    found = processing_class or AutoProcessor.from_pretrained(_name(model), truncation_side="left", padding_side="left")
    if not isinstance(found, PreTrainedTokenizerBase):
        raise ConfigError(f"got {type(found).__name__}, expected a tokenizer: dialogues with images are not supported")
    return found


def chat_of(tokenizer: PreTrainedTokenizerBase, values: Mapping[str, Any] | None) -> ChatFormat:
    """The chat format with `chat_template_kwargs`, which become the first lines of the template.

    Raises:
        ChatTemplateError: the template cannot carry a tool dialogue.
    """
    if not values:
        return ChatFormat(tokenizer)
    own = copy.copy(tokenizer)
    lines = [
        f"{{%- set {name} = {'none' if value is None else json.dumps(value)} %}}" for name, value in values.items()
    ]
    own.chat_template = "".join(lines) + str(tokenizer.chat_template)
    return ChatFormat(own)


def functions_of(reward_funcs: Any) -> list[Callable[..., Any]]:
    """The user's reward functions as a list.

    Raises:
        ConfigError: one of them is a model.
    """
    given = [] if reward_funcs is None else reward_funcs if isinstance(reward_funcs, list) else [reward_funcs]
    for place, function in enumerate(given):
        if isinstance(function, str) or hasattr(function, "parameters"):
            raise ConfigError(f"reward_funcs[{place}] is a reward model; expected functions: call the model in one")
    return list(given)


def placeholder(name: str) -> Callable[..., Any]:
    """A reward function that is never called: it has a column of this name in TRL's log."""

    def column(**row: Any) -> list[float]:
        raise AssertionError(f"rewards of {name} are known before TRL asks")

    column.__name__ = name
    return column


def rows_of_tasks(tasks: Sequence[Task]) -> Any:
    """A data set of tasks of ours; None for none."""
    return Dataset.from_list(rows_naming(tasks)) if tasks else None


def rows_for_worlds(args: Any, *, routed: bool) -> Any:
    """Rows without a prompt, where the environment makes up its tasks by itself.

    Raises:
        ConfigError: nothing says how long the run is, or which environment a row is of.
    """
    if routed:
        raise ConfigError("several environments need a train_dataset with a column `environment` that chooses one")
    if args.max_steps <= 0:
        raise ConfigError("without a train_dataset, max_steps says how long the run is; set it in the GRPOConfig")
    return Dataset.from_list([{"prompt": list(NO_PROMPT)}] * (args.generation_batch_size // args.num_generations))


def _name(model: Any) -> str:
    return model if isinstance(model, str) else str(model.config._name_or_path)
