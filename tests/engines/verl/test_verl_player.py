"""A dialogue in one process, its failure in another, the recovery in a third: what crosses, and what comes of it."""

from __future__ import annotations

import pickle
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import Any

import pytest
from tiny_policies import ENVIRONMENTS, chat, tasks

from fission_grpo.algorithm.context import CorrectiveContext
from fission_grpo.algorithm.groups import Group, Member
from fission_grpo.algorithm.judge import Judge
from fission_grpo.algorithm.source import FissionSettings, FissionSource
from fission_grpo.chat.parse import render_call
from fission_grpo.engines.player import DialoguePlayer, packed_member, packed_start, unpacked_member
from fission_grpo.environments.bfcl.environment import BFCL, BfclEnvironment
from fission_grpo.errors import EnvironmentFault
from fission_grpo.rollout import Horizon, RolloutSettings
from fission_grpo.simulator.rules import RulesSimulator
from fission_grpo.types import EndReason, FinishReason, GroupKind, Task, ToolCall, ToolOutcome

SETTINGS = RolloutSettings(max_tokens=64, max_turns=4)
TASK = tasks()[0]
UNKNOWN = ToolCall(name="no_such_tool", arguments={})


class Unpicklable(BfclEnvironment):
    """A world whose snapshots cannot leave their process."""

    def snapshot(self) -> Any:
        inner = super().snapshot()
        return lambda: inner


class Bursting(BfclEnvironment):
    """A world that breaks at every call."""

    def execute(self, call: ToolCall) -> ToolOutcome:
        raise EnvironmentFault("the world burst")


def player(world: type[BfclEnvironment] = BfclEnvironment, horizon: Horizon = Horizon.TURN) -> DialoguePlayer:
    return DialoguePlayer(
        chat=chat(),
        environments={**ENVIRONMENTS, BFCL: world},
        judge=Judge(chat=chat()),
        horizon=horizon,
        recovery_horizon=horizon,
        rollouts=SETTINGS,
        window=4096,
    )


def played(who: DialoguePlayer, packed: bytes, *texts: str) -> Member:
    """What the policy says, message by message; nothing is sampled."""
    play = who.begin(packed)
    for text in texts:
        assert play.dialogue.context is not None
        ids = (*chat().renderer.encode(text), chat().eos_id)
        play.dialogue.advance(who.completion(ids, [-0.5] * len(ids)))
    return who.judged(play, progress=0.5)


def gold() -> ToolCall:
    return TASK.gold[0][0]


def failed(who: DialoguePlayer) -> Member:
    """The first gold call, a call of a tool that is not there, and words."""
    return played(who, packed_start(TASK), render_call(gold()), render_call(UNKNOWN), "Done.")


def context_of(member: Member) -> CorrectiveContext:
    source = FissionSource(FissionSettings(contexts=1), simulator=RulesSimulator(), chat=chat())
    group = Group(id="g", kind=GroupKind.EXPLORATION, task=TASK, members=(member,), context=None)
    source.observe([group], policy_version=3)
    return source.next_contexts()[0]


def world_of(packed: bytes, world: type[BfclEnvironment]) -> tuple[str, tuple[int, ...] | None]:
    """In another process: the world in which a recovery begins, and the tokens that it continues."""
    dialogue = player(world).begin(packed).dialogue
    environment = dialogue._start.environment
    assert environment is not None, dialogue._start.fault
    return environment.state_hash(), tuple(dialogue.context or ())


@pytest.mark.parametrize("world", [BfclEnvironment, Unpicklable])
def test_a_recovery_in_another_process_begins_in_the_world_that_the_failed_call_left(
    world: type[BfclEnvironment],
) -> None:
    sent = packed_member(failed(player(world)))
    member = unpacked_member(sent)
    assert member.failure is not None
    assert member.failure.turn == 1
    kept = [turn for turn, one in enumerate(member.trajectory.snapshots) if one is not None]
    assert kept == ([1] if world is BfclEnvironment else [])  # one of three worlds crosses, if any can
    context = context_of(member)
    here = world_of(packed_start(context), world)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as elsewhere:
        assert elsewhere.submit(world_of, packed_start(context), world).result() == here
    begun = BfclEnvironment()
    begun.reset(TASK)
    before = begun.state_hash()
    begun.execute(gold())
    begun.execute(UNKNOWN)
    assert here[0] == begun.state_hash() != before
    assert here[1] == context.ids


def test_a_snapshot_that_cannot_be_packed_is_left_behind() -> None:
    member = failed(player())
    context = replace(context_of(member), snapshot=lambda: None)
    again: CorrectiveContext = pickle.loads(packed_start(context))
    assert again.snapshot is None
    assert again == context  # a snapshot is no part of what contexts are compared by


def test_a_fault_of_the_world_is_masked_and_not_raised() -> None:
    member = played(player(Bursting), packed_start(TASK), render_call(gold()))
    assert member.trajectory.end is EndReason.HARNESS_FAULT
    assert member.reward is None
    assert unpacked_member(packed_member(member)) == member


def test_a_world_that_cannot_be_built_ends_before_its_first_token() -> None:
    assert TASK.world is not None
    broken: Task = replace(TASK, world=replace(TASK.world, config={"classes": ["NoSuchClass"], "initial": {}}))
    member = played(player(), packed_start(broken))
    assert (member.reward, member.trajectory.turns) == (None, ())


def test_a_task_without_a_world_is_one_message_whatever_the_horizon() -> None:
    bare = replace(TASK, world=None, gold=(), followups=(), target=(gold(),))
    member = played(player(horizon=Horizon.TURN), packed_start(bare), render_call(gold()))
    assert member.trajectory.end is EndReason.HORIZON
    assert member.success


def test_a_message_that_does_not_end_its_turn_was_cut_off() -> None:
    assert player().completion([5, chat().eos_id], [-1.0, -1.0]).finish is FinishReason.STOP
    assert player().completion([5, 6], [-1.0, -1.0]).finish is FinishReason.LENGTH
    assert player().completion([], []).finish is FinishReason.LENGTH
