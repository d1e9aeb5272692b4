"""Every error of an episode, and what the policy made of it."""

from __future__ import annotations

from collections.abc import Sequence, Set
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
    NOT_SENT = "not_sent"
    """Nothing: the protocol took a malformed message for the end of the turn, and nothing was sent back."""
    CUT_OFF = "cut_off"
    """A limit ended the episode."""


class Fate(StrEnum):
    """What became of an error at the very next step: exactly one of these."""

    RECOVERED = "recovered"
    """A step without an error."""
    REPEATED = "repeated"
    """An error again, from a call that had just failed, word for word."""
    OTHER_ERROR = "other error"
    """An error again, from another call."""
    GAVE_UP = "gave up"
    """Words."""
    CUT_OFF = "cut off"
    """No next step: a limit, or a malformed message that the protocol took for the end of the turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorEvent:
    """One step with e(s) = 1 and its sequel."""

    error: ErrorClass
    """Class of the step's first error."""
    tool: str | None
    """Whose call that was; None where the message is malformed."""
    follow: Follow
    repeated: bool
    """The next step contains, word for word, a call that just failed."""
    clean_after: int | None
    """Steps to the first one without an error, 1 = the very next; None if the user turn had none."""
    tokens_after: int | None = None
    """Tokens sampled from the error to the end of that step; None if there is none, or a message has no count."""

    @property
    def fate(self) -> Fate:
        if self.follow is not Follow.CALLED:
            return Fate.GAVE_UP if self.follow is Follow.ANSWERED else Fate.CUT_OFF
        if self.clean_after == 1:
            return Fate.RECOVERED
        return Fate.REPEATED if self.repeated else Fate.OTHER_ERROR


def _event(
    error: ErrorClass, tool: str | None, failed: Set[str], later: Sequence[TurnRecord], wordless: Follow
) -> ErrorEvent:
    steps = [turn for turn in later if turn.is_step]
    stopped = Follow.ANSWERED if any(turn.answered for turn in later) else wordless
    clean_after = next((distance for distance, step in enumerate(steps, start=1) if not step.erred), None)
    way = [step.tokens for step in steps[: clean_after or 0]]
    return ErrorEvent(
        error=error,
        tool=tool,
        follow=Follow.CALLED if steps else stopped,
        repeated=bool(steps and failed & steps[0].attempted),
        clean_after=clean_after,
        tokens_after=sum(way) if all(way) and way else None,  # a message without a token is one that nobody counted
    )


def error_events(
    episode: EpisodeRecord, *, user_turn: int | None = None, error: ErrorClass | None = None
) -> tuple[ErrorEvent, ...]:
    """Every error that the policy itself made, in order; only in one user turn or of one class, if given."""
    events = []
    for place, turn in enumerate(episode.turns):
        if user_turn in (None, turn.user_turn) and (met := turn.error) is not None and error in (None, met):
            later = [other for other in episode.turns[place + 1 :] if other.user_turn == turn.user_turn]
            wordless = Follow.NOT_SENT if turn.failures and not turn.outcomes else Follow.CUT_OFF
            events.append(_event(met, turn.failed_tool, turn.failed, later, wordless))
    return tuple(events)


def probe_event(episode: EpisodeRecord) -> ErrorEvent | None:
    """The injected error of a probe, read like one of the policy's own; None for an ordinary episode."""
    if episode.probe is None:
        return None
    later = [turn for turn in episode.turns if turn.user_turn == episode.turns[0].user_turn]
    call = episode.probe.call
    return _event(episode.probe.error, call.name, {call_text(call)}, later, Follow.CUT_OFF)
