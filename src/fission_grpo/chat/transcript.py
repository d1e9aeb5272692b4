"""What the policy saw and said, token by token, appended and never rewritten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain

from fission_grpo.types import Completion


class SegmentOrigin(StrEnum):
    """Where a run of tokens comes from. Only SAMPLED tokens are trained."""

    PROMPT = "prompt"
    """Rendered by the chat template before the rollout began."""
    SAMPLED = "sampled"
    """Chosen by the policy in this rollout."""
    OBSERVED = "observed"
    """Appended by us: end-of-turn that was not sampled, tool results, user messages, headers."""
    GIVEN = "given"
    """Sampled in an earlier rollout, and a condition now: the failed turn of a corrective context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A run of tokens of one origin."""

    origin: SegmentOrigin
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """One per id, in nats; 0.0 where the policy did not choose."""


class Transcript:
    """Token ids with their loss mask: append-only (ours; what the objective of arXiv:2601.15625 needs to be exact).

    Nothing is decoded and tokenised again: ids that were sampled stay as they were sampled.
    """

    __slots__ = ("_segments",)

    def __init__(self, prompt_ids: Sequence[int]) -> None:
        self._segments: list[Segment] = []
        self._append(SegmentOrigin.PROMPT, prompt_ids)

    def extend_sampled(self, completion: Completion) -> None:
        """Append what the policy just sampled; these tokens alone carry the mask.

        Raises:
            ValueError: as many log-probabilities as ids are needed.
        """
        if len(completion.ids) != len(completion.logprobs):
            raise ValueError(f"{len(completion.logprobs)} log-probabilities for {len(completion.ids)} sampled ids")
        self._segments.append(Segment(origin=SegmentOrigin.SAMPLED, ids=completion.ids, logprobs=completion.logprobs))

    def extend_observed(self, ids: Sequence[int]) -> None:
        """Append what the policy is shown: a `reply` or `user` suffix of `ChatFormat`."""
        self._append(SegmentOrigin.OBSERVED, ids)

    def given(self, ids: Sequence[int]) -> None:
        """Append, untrained, the exact tokens of an earlier rollout that are a condition now (the paper's tau_err)."""
        self._append(SegmentOrigin.GIVEN, ids)

    def fork(self) -> Transcript:
        """An independent continuation: shares the past, costs one pointer per segment."""
        other = object.__new__(Transcript)
        other._segments = self._segments.copy()
        return other

    @property
    def ids(self) -> tuple[int, ...]:
        """All token ids; the prompt's own tuple as long as nothing follows it."""
        if len(self._segments) == 1:
            return self._segments[0].ids
        return tuple(chain.from_iterable(segment.ids for segment in self._segments))

    @property
    def sampled(self) -> tuple[bool, ...]:
        """The loss mask: True exactly on tokens the policy sampled in this rollout."""
        return tuple(segment.origin is SegmentOrigin.SAMPLED for segment in self._segments for _ in segment.ids)

    @property
    def logprobs(self) -> tuple[float, ...]:
        """One per id, in nats, under the distribution it was drawn from; 0.0 where `sampled` is False."""
        return tuple(chain.from_iterable(segment.logprobs for segment in self._segments))

    def __len__(self) -> int:
        return sum(len(segment.ids) for segment in self._segments)

    def _append(self, origin: SegmentOrigin, ids: Sequence[int]) -> None:
        self._segments.append(Segment(origin=origin, ids=tuple(ids), logprobs=(0.0,) * len(ids)))
