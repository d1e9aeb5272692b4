"""Dialogues that go on at their own pace say what they would say alone."""

from __future__ import annotations

from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_greedy import NEVER, PAD, VOCABULARY, naive_greedy, tokens
from tiny_policies import tiny_model

from fission_grpo.policy.base import Context, Sampling
from fission_grpo.policy.local.hf_policy import HFPolicy
from fission_grpo.types import Completion

pytestmark = pytest.mark.early

EOS = 3
"""A random model says it now and then, so completions end after very different numbers of tokens."""


class Talk:
    """A world that answers every completion with a few tokens, a number of times that differs between dialogues."""

    def __init__(self, starts: list[tuple[int, ...]], *, turns: list[int]) -> None:
        self.contexts = list(starts)
        self.said: list[list[tuple[int, ...]]] = [[] for _ in starts]
        self.order: list[int] = []
        self._turns = turns

    def reply(self, index: int, completion: Completion) -> Context | None:
        self.order.append(index)
        self.said[index].append(completion.ids)
        if len(self.said[index]) == self._turns[index]:
            return None
        answer = tokens(2 + index % 3, seed=100 * index + len(self.said[index]))
        context = self.contexts[index]
        self.contexts[index] = context + completion.ids + answer
        return self.contexts[index]


def talk(policy: HFPolicy, *, seed: int = 0, temperature: float = 1.0, dialogues: int = 7) -> Talk:
    rng = Random(5)
    starts = [tokens(6 + 3 * (index // 2), seed=index // 2) for index in range(dialogues)]
    world = Talk(starts, turns=[rng.randrange(1, 5) for _ in range(dialogues)])
    sampling = Sampling(max_tokens=20, temperature=temperature)
    policy.converse(world.contexts, reply=world.reply, sampling=sampling, seed=seed)
    return world


def policy_of(*, max_rows: int = 256, share: bool = True, eos: int = EOS) -> HFPolicy:
    model = tiny_model(vocabulary=VOCABULARY).double()  # no draw may hang on the last digit of a logit
    return HFPolicy(model, eos_id=eos, pad_id=PAD, max_rows=max_rows, share=share)


@settings(deadline=None, max_examples=4)
@given(max_rows=st.integers(1, 8), seed=st.integers(0, 1000))
def test_what_is_said_does_not_depend_on_how_many_rows_there_are(max_rows: int, seed: int) -> None:
    wide = talk(policy_of(), seed=seed)
    assert talk(policy_of(max_rows=max_rows), seed=seed).said == wide.said
    assert talk(policy_of(share=False), seed=seed).said == wide.said


def test_every_turn_is_the_naive_continuation_of_its_dialogue() -> None:
    policy = policy_of(max_rows=3)
    world = talk(policy, temperature=0.0)
    for index, said in enumerate(world.said):
        # The last context held all turns but the last one.
        last = naive_greedy(policy.model, world.contexts[index], eos=EOS, max_tokens=20)
        assert said[-1] == last


def test_every_turn_has_random_numbers_of_its_own() -> None:
    """The same context again is continued differently: in a sibling, in a later turn, and with another seed."""
    policy = policy_of(eos=NEVER)
    context = tokens(6, seed=1)
    said: list[tuple[int, ...]] = []

    def again(index: int, completion: Completion) -> Context | None:
        said.append(completion.ids)
        return context if len(said) < 4 else None

    for seed in (0, 1):
        said_before = len(said)
        policy.converse([context, context], reply=again, sampling=Sampling(max_tokens=10), seed=seed)
        assert len(said) > said_before
    assert len(set(said)) == len(said)


def test_a_row_is_filled_again_while_others_run() -> None:
    """Dialogues of very different lengths in four rows: without refilling, rows stand empty until a batch has ended."""
    policies = [policy_of(max_rows=4, share=share) for share in (True, False)]
    environments = [talk(policy, dialogues=24) for policy in policies]
    assert environments[0].said == environments[1].said
    completions = len(environments[0].order)
    refilled, plain = (policy.take_count() for policy in policies)
    assert refilled.sampled == plain.sampled
    # Reading gives the first token of each completion; every other one takes a row of a pass.
    idle, idle_plain = (4 * count.passes - (count.sampled - completions) for count in (refilled, plain))
    assert 0 <= idle < 0.75 * idle_plain  # what is left is the end, when nobody waits any more


def test_a_dialogue_that_goes_on_finds_its_row() -> None:
    """More dialogues than rows: those that have begun come first, and nothing of them is read twice."""
    policy = policy_of(max_rows=2)
    world = talk(policy, dialogues=8)
    count = policy.take_count()
    starts = sum(len(context) for context in world.contexts)
    said = sum(len(ids) for turns in world.said for ids in turns[:-1])
    # Every token of the last contexts is read or sampled once; of each turn its last token was sampled and not read.
    # Pairs of dialogues share their start, and the second of a pair may find it in the first one's row.
    again = sum(len(turns) - 1 for turns in world.said)
    assert count.prefilled <= starts - said + again


def test_what_a_reply_raises_is_not_the_policy_s_fault() -> None:
    class OursError(Exception):
        pass

    def reply(index: int, completion: Completion) -> Context | None:
        raise OursError

    with pytest.raises(OursError):
        policy_of().converse([(5,)], reply=reply, sampling=Sampling(max_tokens=2), seed=0)
    assert not torch.is_inference_mode_enabled()
