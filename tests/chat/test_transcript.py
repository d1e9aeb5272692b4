from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fission_grpo.chat.transcript import SegmentOrigin, Transcript
from fission_grpo.types import Completion, FinishReason

IDS = st.lists(st.integers(0, 99), max_size=6).map(tuple)
Steps: TypeAlias = list[tuple[SegmentOrigin, tuple[int, ...]]]
STEPS = st.lists(
    st.tuples(st.sampled_from([SegmentOrigin.SAMPLED, SegmentOrigin.OBSERVED, SegmentOrigin.GIVEN]), IDS), max_size=8
)


def sampled(*ids: int) -> Completion:
    return Completion(ids=ids, logprobs=tuple(-float(id_) - 1 for id_ in ids), finish=FinishReason.STOP)


def extend(transcript: Transcript, origin: SegmentOrigin, ids: tuple[int, ...]) -> None:
    match origin:
        case SegmentOrigin.SAMPLED:
            transcript.extend_sampled(sampled(*ids))
        case SegmentOrigin.OBSERVED:
            transcript.extend_observed(ids)
        case _:
            transcript.given(ids)


def test_a_corrective_context_trains_the_recovery_only() -> None:
    # x      tau_err  feedback  recovery
    # 1 2 3  4 5      6         7 8
    transcript = Transcript([1, 2, 3])
    transcript.given([4, 5])
    transcript.extend_observed([6])
    transcript.extend_sampled(sampled(7, 8))
    assert transcript.ids == (1, 2, 3, 4, 5, 6, 7, 8)
    assert transcript.sampled == (False,) * 6 + (True, True)
    assert transcript.logprobs == (0.0,) * 6 + (-8.0, -9.0)


@given(IDS, STEPS)
def test_ids_mask_and_logprobs_stay_aligned(prompt: tuple[int, ...], steps: Steps) -> None:
    transcript = Transcript(prompt)
    for origin, ids in steps:
        before = transcript.ids
        extend(transcript, origin, ids)
        assert transcript.ids == before + ids
    expected = [False] * len(prompt) + [origin is SegmentOrigin.SAMPLED for origin, ids in steps for _ in ids]
    assert list(transcript.sampled) == expected
    assert [logprob < 0 for logprob in transcript.logprobs] == expected
    assert len(transcript) == len(transcript.ids) == len(expected)


@given(IDS, STEPS, STEPS, STEPS)
def test_forks_do_not_see_each_other(prompt: tuple[int, ...], shared: Steps, left: Steps, right: Steps) -> None:
    trunk = Transcript(prompt)
    for origin, ids in shared:
        extend(trunk, origin, ids)
    before = (trunk.ids, trunk.sampled, trunk.logprobs)
    fork = trunk.fork()
    for origin, ids in left:
        extend(fork, origin, ids)
    assert (trunk.ids, trunk.sampled, trunk.logprobs) == before
    fork_before = fork.ids
    for origin, ids in right:
        extend(trunk, origin, ids)
    assert fork.ids == fork_before
    assert fork.ids[: len(before[0])] == before[0]


def test_siblings_share_the_prompt_they_were_forked_from() -> None:
    transcript = Transcript(range(1000))
    assert transcript.fork().ids is transcript.ids


def test_misaligned_logprobs_are_refused() -> None:
    with pytest.raises(ValueError, match="1 log-probabilities for 2 sampled ids"):
        Transcript([1]).extend_sampled(Completion(ids=(1, 2), logprobs=(0.0,), finish=FinishReason.STOP))
