"""A living Python object behind a thread: built from a config, called with limits, hashed, judged by its own hook."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from fission_grpo.environments.functions.digest import attribute_digests
from fission_grpo.environments.functions.schema_of import score_hook, tool_methods, toolbox
from fission_grpo.environments.functions.worker import Overrun, Runner, Worker
from fission_grpo.environments.limits import CallLimits
from fission_grpo.errors import ConfigError, EnvironmentFault, ToolError
from fission_grpo.types import Tool, ToolCall, Verdict

SETUP_SECONDS = 60.0
"""Most that a world's constructor, `reset`, hash or score may take; ours."""

_ResultT = TypeVar("_ResultT")


class FunctionWorld:
    """One object, and where all of its code runs."""

    def __init__(
        self, factory: Callable[[], Any], config: Mapping[str, Any], *, runner: Callable[[], Runner] = Worker
    ) -> None:
        """Call `factory()`, then `reset(**config)` on what it made.

        Raises:
            ConfigError: either of them failed, or the object's methods have no JSON Schema.
        """
        self._runner = runner()
        given = copy.deepcopy(dict(config))
        try:
            self._subject = self._guarded("reset", lambda: _born(factory, given))
        except EnvironmentFault as fault:
            raise ConfigError(f"the world cannot be built from {dict(config)!r}: {fault}") from fault
        self._methods = tool_methods(self._subject)
        self.tools: tuple[Tool, ...] = toolbox(type(self._subject), self._subject)

    def call(self, call: ToolCall, limits: CallLimits) -> str:
        """The answer as text, at most one character longer than the limit allows.

        Raises:
            ToolError: the tool said no.
            EnvironmentFault: it raised anything else.
            Overrun: it took too long; this world is lost.
        """
        method = self._methods[call.name]
        given = copy.deepcopy(dict(call.arguments))
        return self._runner.run(
            f"tool {call.name}", lambda: _as_text(method(**given), limits.characters), seconds=limits.seconds
        )

    def attributes(self) -> Mapping[str, str]:
        """Digest of every attribute, private ones included."""
        return self._guarded("state hash", lambda: attribute_digests(self._subject))

    @property
    def judges_itself(self) -> bool:
        """Whether the object has `score()` or `get_reward()`."""
        return score_hook(self._subject) is not None

    def score(self) -> Verdict:
        """What the object's own hook says; a number is a success from 1 on.

        Raises:
            EnvironmentFault: there is none, it broke, or it returned neither a number nor a `Verdict`.
        """
        return self._guarded("score", lambda: _as_verdict(score_hook(self._subject)))

    def _guarded(self, what: str, job: Callable[[], _ResultT]) -> _ResultT:
        try:
            return self._runner.run(what, job, seconds=SETUP_SECONDS)
        except (Overrun, ToolError) as error:
            raise EnvironmentFault(f"{what}: {error}") from error


def _born(factory: Callable[[], Any], config: dict[str, Any]) -> Any:
    subject = factory()
    subject.reset(**config)
    return subject


def _as_text(value: Any, most: int) -> str:
    """Text as it is, everything else as JSON, written only as far as it can be shown."""
    if isinstance(value, str):
        return value[: most + 1]
    chunks, length = [], 0
    for chunk in json.JSONEncoder(ensure_ascii=False, default=str).iterencode(value):
        chunks.append(chunk)
        length += len(chunk)
        if length > most:
            break
    return "".join(chunks)[: most + 1]


def _as_verdict(hook: Callable[[], Any] | None) -> Verdict:
    value = hook() if hook else None
    number = value.matched if isinstance(value, Verdict) else value
    if not isinstance(number, int | float):
        raise EnvironmentFault(f"score: expected a number or a Verdict, got {type(value).__name__}")
    if not math.isfinite(number):
        raise EnvironmentFault(f"score: expected a finite number, got {number}")
    if isinstance(value, Verdict):
        return value
    if number >= 1:
        return Verdict(ok=True, detail=f"{number:g}", matched=1.0)
    return Verdict(ok=False, error_type="reward_below_one", detail=f"{number:g}", matched=max(float(number), 0.0))
