"""Every error of an episode, and what the policy made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from fission_grpo.evaluation.records import EpisodeRecord, TurnRecord, call_text
from fission_grpo.types import ErrorClass


class Follow(StrEnum):
    """What came after an error, in the same user turn."""

    CALLED = "called"
    """Another step: s + 1 exists."""
    ANSWERED = "answered"
    """Words: the policy let the error stand."""
    CUT_OFF = "cut_off"
    """A limit ended the episode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorEvent:
    """One step with e(s) = 1 and its sequel."""

    error: ErrorClass
    """Class of the step's first error."""
    follow: Follow
    repeated: bool
    """The next step contains, word for word, a call that just failed."""
    clean_after: int | None
    """Steps to the first one without an error, 1 = the very next; None if the user turn had none."""


def _event(error: ErrorClass, failed: frozenset[str], later: Sequence[TurnRecord]) -> ErrorEvent:
    steps = [turn for turn in later if turn.is_step]
    wordless = Follow.ANSWERED if any(turn.answered for turn in later) else Follow.CUT_OFF
    return ErrorEvent(
        error=error,
        follow=Follow.CALLED if steps else wordless,
        repeated=bool(steps and failed & steps[0].attempted),
        clean_after=next((distance for distance, step in enumerate(steps, start=1) if not step.erred), None),
    )


def error_events(episode: EpisodeRecord) -> tuple[ErrorEvent, ...]:
    """Every error that the policy itself made, in order."""
    events = []
    for place, turn in enumerate(episode.turns):
        if turn.error is not None:
            later = [other for other in episode.turns[place + 1 :] if other.user_turn == turn.user_turn]
            events.append(_event(turn.error, turn.failed, later))
    return tuple(events)


def probe_event(episode: EpisodeRecord) -> ErrorEvent | None:
    """The injected error of a probe, read like one of the policy's own; None for an ordinary episode."""
    if episode.probe is None:
        return None
    later = [turn for turn in episode.turns if turn.user_turn == episode.turns[0].user_turn]
    return _event(episode.probe.error, frozenset({call_text(episode.probe.call)}), later)
