"""The arms of every comparison: one recipe, changed in nothing but where its rollouts go.

All arms make the same number of updates. `grpo-matched` spends the rollouts that fission may use on more exploration;
it is the fair baseline. `grpo` leaves them out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING

from fission_grpo.errors import ConfigError

if TYPE_CHECKING:
    from fission_grpo.config import RunSettings


class Arm(StrEnum):
    """What is compared."""

    GRPO = "grpo"
    """No fission, and no rollouts in its place."""
    GRPO_MATCHED = "grpo-matched"
    """No fission; its whole rollout budget goes into more tasks a step."""
    GRPO_DECISION = "grpo-decision"
    """`grpo-matched` with the paper's exploration: one decision at a time, judged by its gold call."""
    FISSION = "fission"
    """Feedback by the `rules` simulator."""
    FISSION_DECISION = "fission-decision"
    """`fission` with the paper's exploration; recoveries still go on to the end of the turn."""
    FISSION_STATIC = "fission-static"
    """Feedback is the paper's fixed string."""
    FISSION_PASSTHROUGH = "fission-passthrough"
    """Feedback is the world's own error text."""
    FISSION_OFFLINE = "fission-offline"
    """`fission` with contexts collected once from the starting weights. What the collection costs comes on top."""


def apply_arm(arm: Arm, settings: RunSettings, *, written: Collection[str] = ()) -> RunSettings:
    """The settings of one arm.

    Args:
        written: dotted names of the settings that the user wrote: an arm does not pass over them in silence.

    Raises:
        ConfigError: the fission budget is no whole number of exploration groups, or there is none to begin with; or
            the arm is made by the very choice that the user made otherwise.
    """
    armed = _ARMS[arm](settings)
    for name, choice in _CHOICES.items():
        if name in written and choice(armed) != choice(settings):
            raise ConfigError(
                f"arm {arm} means {name}={choice(armed)}, but {name}={choice(settings)} was asked for; "
                f"leave out {name}, or choose another arm"
            )
    return armed


def _without_fission(settings: RunSettings) -> RunSettings:
    return settings.model_copy(update={"fission": settings.fission.model_copy(update={"contexts": 0})})


def _matched(settings: RunSettings) -> RunSettings:
    trainer, fission = settings.trainer, settings.fission
    more, rest = divmod(fission.contexts * fission.group_size, trainer.group_size)
    if rest:
        raise ConfigError(
            f"arm grpo-matched: {fission.contexts} contexts of {fission.group_size} recoveries are no whole number of "
            f"groups of {trainer.group_size}; choose fission.contexts so that they are"
        )
    wider = trainer.model_copy(update={"queries": trainer.queries + more})
    return _without_fission(settings.model_copy(update={"trainer": wider}))


def _with_fission(settings: RunSettings, *, simulator: str) -> RunSettings:
    if not settings.fission.contexts:
        raise ConfigError("this arm needs corrective contexts, but fission.contexts is 0; set fission.contexts=8")
    fission = {**settings.fission.model_dump(), "pool": 0}
    return type(settings).model_validate({**settings.model_dump(), "simulator": simulator, "fission": fission})


def _offline(settings: RunSettings) -> RunSettings:
    """As many contexts as the run may use, unless the settings say how many: then none comes twice."""
    online, fission = _with_fission(settings, simulator="rules"), settings.fission
    if fission.depth > 1:
        raise ConfigError(
            f"arm fission-offline collects failures met before training, and fission.depth {fission.depth} asks for "
            "those of recoveries too; set fission.depth=1"
        )
    pool = fission.pool or settings.trainer.steps * fission.contexts
    return online.model_copy(update={"fission": fission.model_copy(update={"pool": pool})})


def _by_decision(settings: RunSettings) -> RunSettings:
    from fission_grpo.rollout import Horizon  # transformers is behind this

    trainer = settings.trainer.model_copy(update={"horizon": Horizon.CALL})
    return settings.model_copy(update={"trainer": trainer})


_CHOICES: Mapping[str, Callable[[RunSettings], object]] = {
    "simulator": lambda settings: settings.simulator,
    "trainer.horizon": lambda settings: settings.trainer.horizon,
    "fission.pool": lambda settings: settings.fission.pool,
}
"""What tells arms apart, besides where their budget goes."""

_ARMS: Mapping[Arm, Callable[[RunSettings], RunSettings]] = {
    Arm.GRPO: _without_fission,
    Arm.GRPO_MATCHED: _matched,
    Arm.GRPO_DECISION: lambda settings: _by_decision(_matched(settings)),
    Arm.FISSION: partial(_with_fission, simulator="rules"),
    Arm.FISSION_DECISION: lambda settings: _by_decision(_with_fission(settings, simulator="rules")),
    Arm.FISSION_STATIC: partial(_with_fission, simulator="static"),
    Arm.FISSION_PASSTHROUGH: partial(_with_fission, simulator="passthrough"),
    Arm.FISSION_OFFLINE: _offline,
}
