"""The arms of every comparison: within a family one recipe, and what differs is where its rollouts go.

Two families. Whole episodes, judged by their world, are the recipe's own exploration; `-decision` is the paper's:
single messages at every place of a dialogue, judged by their reference, recoveries included. In each of them the
controls spend what fission spends in another way: `-matched` (and `grpo-decision`) the rollouts, `-tokens` the sampled
tokens, on more exploration; `grpo-mixed` the rollouts on whole turns; `grpo` and `grpo-decision-plain` leave them out.
A recipe may give arms with whole turns among their rollouts another objective (`recipes/nano.py` does).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING

from fission_grpo.errors import ConfigError
from fission_grpo.recipes import Exploration

if TYPE_CHECKING:
    from fission_grpo.config import RunSettings


class Arm(StrEnum):
    """What is compared."""

    GRPO = "grpo"
    """No fission, and no rollouts in its place."""
    GRPO_MATCHED = "grpo-matched"
    """No fission; its whole rollout budget goes into more tasks a step."""
    GRPO_TOKENS = "grpo-tokens"
    """No fission; as many tasks a step as keep to the tokens that a run with fission sampled."""
    GRPO_DECISION = "grpo-decision"
    """`grpo-matched` with the paper's exploration: one decision at a time, judged by its reference."""
    GRPO_DECISION_PLAIN = "grpo-decision-plain"
    """`grpo` with the paper's exploration."""
    GRPO_DECISION_TOKENS = "grpo-decision-tokens"
    """`grpo-tokens` with the paper's exploration."""
    GRPO_MIXED = "grpo-mixed"
    """The paper's exploration without fission; its rollout budget goes into whole turns."""
    FISSION = "fission"
    """Feedback by the `rules` simulator."""
    FISSION_DECISION = "fission-decision"
    """`fission` as in the paper: a failed decision is made again, under the same reference."""
    FISSION_DECISION_TURN = "fission-decision-turn"
    """The paper's exploration, and recoveries that go on to the end of the turn, judged by the world."""
    FISSION_STATIC = "fission-static"
    """Feedback is the paper's fixed string."""
    FISSION_PASSTHROUGH = "fission-passthrough"
    """Feedback is the world's own error text."""
    FISSION_OFFLINE = "fission-offline"
    """`fission` with contexts collected once from the starting weights. What the collection costs comes on top."""


EXPLORATION: Mapping[Arm, Exploration] = {
    **dict.fromkeys(Arm, Exploration.EPISODES),
    **dict.fromkeys(
        (Arm.GRPO_DECISION, Arm.GRPO_DECISION_PLAIN, Arm.GRPO_DECISION_TOKENS, Arm.FISSION_DECISION),
        Exploration.DECISIONS,
    ),
    **dict.fromkeys((Arm.GRPO_MIXED, Arm.FISSION_DECISION_TURN), Exploration.MIXED),
}
"""What each arm trains on: a recipe may have other sizes for it."""


def apply_arm(arm: Arm, settings: RunSettings, *, written: Collection[str] = ()) -> RunSettings:
    """The settings of one arm.

    Args:
        written: dotted names of the settings that the user wrote: an arm does not pass over them in silence.

    Raises:
        ConfigError: the fission budget is no whole number of exploration groups, or there is none to begin with; or
            the arm is made by the very choice that the user made otherwise, or does not go together with others.
    """
    from fission_grpo.config import validated  # torch is behind this

    armed = _ARMS[arm](settings)
    for name, choice in _CHOICES.items():
        if name in written and choice(armed) != choice(settings):
            raise ConfigError(
                f"arm {arm} means {name}={choice(armed)}, but {name}={choice(settings)} was asked for; "
                f"leave out {name}, or choose another arm"
            )
    return validated(type(settings), armed.model_dump())


def _without_fission(settings: RunSettings) -> RunSettings:
    return settings.model_copy(update={"fission": settings.fission.model_copy(update={"contexts": 0})})


def _matched(settings: RunSettings) -> RunSettings:
    return _with_queries(settings, "queries", settings.trainer.queries + _groups_of_fission(settings))


def _with_queries(settings: RunSettings, name: str, count: int) -> RunSettings:
    return _without_fission(settings.model_copy(update={"trainer": settings.trainer.model_copy(update={name: count})}))


def _groups_of_fission(settings: RunSettings) -> int:
    """Exploration groups that cost as many rollouts as fission may use in a step."""
    trainer, fission = settings.trainer, settings.fission
    groups, rest = divmod(fission.contexts * fission.group_size, trainer.group_size)
    if rest:
        raise ConfigError(
            f"this arm explores in place of fission, and {fission.contexts} contexts of {fission.group_size} recoveries"
            f" are no whole number of groups of {trainer.group_size}; choose fission.contexts so that they are"
        )
    return groups


def _mixed(settings: RunSettings) -> RunSettings:
    return _by_decision(_with_queries(settings, "turn_queries", _groups_of_fission(settings)))


def _by_tokens(settings: RunSettings) -> RunSettings:
    if not settings.trainer.sampled_tokens:
        raise ConfigError(
            "this arm samples as many tokens as a run with fission did, and trainer.sampled_tokens is 0; set it to the "
            "sum of `generate/sampled` in that run's metrics.jsonl (fission quickstart does so by itself)"
        )
    return _matched(settings)


def _with_fission(settings: RunSettings, *, simulator: str) -> RunSettings:
    from fission_grpo.config import SimulatorName  # torch is behind this

    if not settings.fission.contexts:
        raise ConfigError("this arm needs corrective contexts, but fission.contexts is 0; set fission.contexts=8")
    fission = settings.fission.model_copy(update={"pool": 0})
    return settings.model_copy(update={"simulator": SimulatorName(simulator), "fission": fission})


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


def _by_decision(settings: RunSettings, *, recovery: str = "call") -> RunSettings:
    """Exploration at every decision point, one message each.

    Args:
        recovery: how far recoveries go.
    """
    from fission_grpo.rollout import Horizon  # transformers is behind this

    return settings.model_copy(
        update={
            "trainer": settings.trainer.model_copy(update={"horizon": Horizon.CALL}),
            "fission": settings.fission.model_copy(update={"horizon": Horizon(recovery)}),
            "synthetic": settings.synthetic.model_copy(update={"decision_positions": True}),
        }
    )


_CHOICES: Mapping[str, Callable[[RunSettings], object]] = {
    "simulator": lambda settings: settings.simulator,
    "trainer.horizon": lambda settings: settings.trainer.horizon,
    "trainer.turn_queries": lambda settings: settings.trainer.turn_queries,
    "fission.horizon": lambda settings: settings.fission.horizon,
    "synthetic.decision_positions": lambda settings: settings.synthetic.decision_positions,
    "fission.pool": lambda settings: settings.fission.pool,
}
"""What tells arms apart, besides where their budget goes."""

_ARMS: Mapping[Arm, Callable[[RunSettings], RunSettings]] = {
    Arm.GRPO: _without_fission,
    Arm.GRPO_MATCHED: _matched,
    Arm.GRPO_TOKENS: _by_tokens,
    Arm.GRPO_DECISION: lambda settings: _by_decision(_matched(settings)),
    Arm.GRPO_DECISION_PLAIN: lambda settings: _by_decision(_without_fission(settings)),
    Arm.GRPO_DECISION_TOKENS: lambda settings: _by_decision(_by_tokens(settings)),
    Arm.GRPO_MIXED: _mixed,
    Arm.FISSION: partial(_with_fission, simulator="rules"),
    Arm.FISSION_DECISION: lambda settings: _by_decision(_with_fission(settings, simulator="rules")),
    Arm.FISSION_DECISION_TURN: lambda settings: _by_decision(
        _with_fission(settings, simulator="rules"), recovery="turn"
    ),
    Arm.FISSION_STATIC: partial(_with_fission, simulator="static"),
    Arm.FISSION_PASSTHROUGH: partial(_with_fission, simulator="passthrough"),
    Arm.FISSION_OFFLINE: _offline,
}
