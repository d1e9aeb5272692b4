"""The rival: branches before uncertain messages, whatever came of them, in the world that these met."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError
from tiny_policies import DONE, ENVIRONMENTS, chat, hidden_task, say, scripted
from tiny_runs import FISSION, buffer_of, fingerprint, finish, metrics, tiny_run, weights

from fission_grpo.algorithm.branching import BranchingSource, uncertain_steps
from fission_grpo.algorithm.context import Parent
from fission_grpo.algorithm.groups import Group
from fission_grpo.algorithm.judge import Judge
from fission_grpo.algorithm.offline import fission_source
from fission_grpo.algorithm.source import BranchAt, ContextOrder, FissionSettings
from fission_grpo.algorithm.stages import Stages
from fission_grpo.environments.bfcl.environment import BfclEnvironment
from fission_grpo.files import read_jsonl
from fission_grpo.policy.base import Sampling
from fission_grpo.policy.scripted import ScriptedPolicy
from fission_grpo.report.tree import fission_trees, text_tree
from fission_grpo.report.tree_figure import tree_figure
from fission_grpo.rollout import Horizon
from fission_grpo.simulator.base import FailedCall, Feedback
from fission_grpo.simulator.static import StaticSimulator

TASK = hidden_task()
FIRST, LAST = TASK.gold[0]
SOLVES = (say(FIRST), say(LAST), DONE)
BRANCHING = FISSION.model_copy(update={"branch": BranchAt.UNCERTAINTY})


class Mute(StaticSimulator):
    """Must not be asked."""

    def diagnose(self, failed: Sequence[FailedCall]) -> list[Feedback]:
        raise AssertionError("asked")


def stages(policy: ScriptedPolicy, *, horizon: Horizon = Horizon.TURN, per_group: int = 1) -> Stages:
    settings = FissionSettings(contexts=4, group_size=2, per_group=per_group, branch=BranchAt.UNCERTAINTY)
    return Stages(
        policy=policy,
        chat=chat(),
        environments=ENVIRONMENTS,
        judge=Judge(chat=chat()),
        source=fission_source(settings, simulator=Mute(), chat=chat(), seed=0),
        sampling=Sampling(max_tokens=200),
        group_size=2,
        horizon=horizon,
        max_turns=6,
        seed=0,
    )


def explored(*surprisals: Sequence[float], answers: Sequence[str] = SOLVES) -> Group:
    """One trajectory for each row, all with these answers; every token of message k has the k-th surprisal, but for its
    last one, which has three times that: the mean over n tokens is (n + 2) / n times as much."""
    made = stages(scripted(*answers))
    groups = [made.explore([TASK], step=0, progress=0.0)[0] for _ in surprisals]
    members = []
    for group, row in zip(groups, surprisals, strict=True):
        member = group.members[0]
        turns = []
        for turn, nats in zip(member.trajectory.turns, row, strict=True):
            logprobs = (*[-nats] * (len(turn.completion.ids) - 1), -3 * nats)
            turns.append(replace(turn, completion=replace(turn.completion, logprobs=logprobs)))
        members.append(replace(member, trajectory=replace(member.trajectory, turns=tuple(turns))))
    return replace(groups[0], members=tuple(members))


def test_the_least_sure_message_behind_a_tool_comes_first_and_the_opening_one_never() -> None:
    group = explored([9.0, 1.0, 2.0], [9.0, 4.0, 0.5])
    steps = uncertain_steps(group)
    # Both trajectories say the same: two places behind a tool, each with its higher surprisal.
    assert [(step.index, step.turn) for step in steps] == [(1, 1), (0, 2)]
    for step, nats in zip(steps, (4.0, 2.0), strict=True):
        tokens = len(group.members[step.index].trajectory.turns[step.turn].completion.ids)
        assert step.surprisal == pytest.approx(nats * (tokens + 2) / tokens)


def test_what_a_fault_of_ours_touched_is_no_place_to_branch() -> None:
    group = explored([1.0, 1.0, 2.0], [1.0, 4.0, 3.0])
    faulty = replace(group.members[1], reward=None)
    assert [
        (step.index, step.turn) for step in uncertain_steps(replace(group, members=(group.members[0], faulty)))
    ] == [
        (0, 2),
        (0, 1),
    ]


def test_without_a_message_behind_a_tool_the_opening_one_is_branched() -> None:
    (step,) = uncertain_steps(explored([1.0], [2.0], answers=[DONE]))
    assert (step.index, step.turn) == (1, 0)


def test_a_branch_is_the_dialogue_before_the_message_in_the_world_that_it_met() -> None:
    group = explored([9.0, 4.0, 1.0])
    trajectory = group.members[0].trajectory
    made = stages(scripted(*SOLVES))
    made.observe([group], step=3)
    assert not made.source.awaits_feedback
    (context,) = made.next_contexts()
    assert context.ids == context.x_ids == trajectory.ids[: trajectory.turns[1].start]
    assert context.before == trajectory.turns[:1]
    assert context.messages == trajectory.dialogue(1)
    assert (context.corrects, context.feedback, context.error, context.policy_version) == (False, None, None, 3)
    assert context.parent == Parent(group=group.id, trajectory=0, turn=1)
    reference = BfclEnvironment()
    reference.reset(TASK)
    reference.execute(FIRST)
    start = context.start(ENVIRONMENTS)
    assert start.environment is not None
    assert start.environment.state_hash() == reference.state_hash()
    assert not any(start.transcript.sampled)
    families = made.recover([context], step=3, progress=0.0)
    assert [member.success for member in families[0].members] == [True, True]  # nothing had failed, and nothing does
    assert made.next_contexts() == []  # a continuation is not branched again


def test_a_branch_at_the_opening_message_begins_where_the_task_does() -> None:
    made = stages(scripted(DONE))
    groups = made.explore([TASK], step=0, progress=0.0)
    made.observe(groups, step=0)
    (context,) = made.next_contexts()
    assert context.ids == chat().prompt(TASK.messages, TASK.tools)
    reference = BfclEnvironment()
    reference.reset(TASK)
    start = context.start(ENVIRONMENTS)
    assert (start.fault, start.messages) == ("", TASK.messages)
    assert start.environment is not None
    assert start.environment.state_hash() == reference.state_hash()


def test_a_continuation_may_say_again_what_went_well_before_the_branch() -> None:
    made = stages(scripted("", say(FIRST), say(LAST), DONE))
    made.observe([explored([9.0, 4.0, 1.0])], step=0)
    (family,) = made.recover(made.next_contexts(), step=0, progress=0.0)
    reward = family.members[0].reward
    assert reward is not None
    assert reward.value("repeat") == 1.0


def test_a_decision_point_without_a_world_is_branched_at_its_only_message() -> None:
    task = replace(TASK, world=None, target=(FIRST,))
    made = stages(scripted(say(FIRST)), horizon=Horizon.CALL)
    made.observe(made.explore([task], step=0, progress=0.0), step=0)
    (family,) = made.recover(made.next_contexts(), step=0, progress=0.0)
    assert [member.success for member in family.members] == [True, True]


@pytest.mark.parametrize("per_group", [1, 2, 9])
def test_a_group_contributes_its_least_sure_steps_up_to_a_limit(per_group: int) -> None:
    made = stages(scripted(*SOLVES), per_group=per_group)
    made.observe([explored([9.0, 1.0, 2.0])], step=0)
    assert made.source.count.observed == len(made.source.buffer) == min(per_group, 2)


def test_without_contexts_nothing_is_branched() -> None:
    settings = FissionSettings(branch=BranchAt.UNCERTAINTY)
    source = fission_source(settings, simulator=Mute(), chat=chat(), seed=0)
    assert isinstance(source, BranchingSource)
    source.observe([explored([9.0, 1.0, 2.0])], policy_version=0)
    assert (len(source.buffer), source.next_contexts()) == (0, [])


@pytest.mark.parametrize("other", [{"pool": 4}, {"depth": 2}, {"order": ContextOrder.NEED}])
def test_what_is_about_failures_does_not_go_with_it(other: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="expected pool=0, depth=1, order=lifo, got pool="):
        FissionSettings.model_validate({"branch": "uncertainty", **other})


def test_a_stopped_run_continues_bit_for_bit_and_its_trees_can_be_drawn(tmp_path: Path) -> None:
    whole = tiny_run(tmp_path / "whole", fission=BRANCHING, simulator=Mute())
    finish(whole)
    finish(tiny_run(tmp_path / "stopped", fission=BRANCHING, simulator=Mute()), stop_after=3)
    resumed = tiny_run(tmp_path / "stopped", fission=BRANCHING, simulator=Mute(), resume=True)
    finish(resumed)
    assert metrics(resumed.run) == metrics(whole.run)
    assert resumed.run.traces.read_bytes() == whole.run.traces.read_bytes()
    assert fingerprint(weights(resumed)) == fingerprint(weights(whole))
    assert buffer_of(resumed) == buffer_of(whole)
    assert resumed.source.count == whole.source.count

    lines = list(read_jsonl(whole.run.traces))
    families = [line for line in lines if line["kind"] == "fission"]
    assert len(families) == whole.source.count.used > 0
    assert {(line["feedback"], line["error"]) for line in families} == {(None, None)}
    trees = list(fission_trees(lines))
    assert len(trees) == len(families)
    assert text_tree(trees[0]).count("\n") == 2 + len(trees[0].branches) + len(trees[0].recoveries)
    assert tree_figure(trees[0], tmp_path / "tree.svg").stat().st_size


def test_contexts_survive_pickling() -> None:
    made = stages(scripted(*SOLVES))
    made.observe([explored([9.0, 4.0, 1.0])], step=0)
    (context,) = pickle.loads(pickle.dumps(made.next_contexts()))
    assert (context.corrects, context.start(ENVIRONMENTS).fault) == (False, "")
