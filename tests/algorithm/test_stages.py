"""The seam of engines: stages for those that own the step, dialogues for those that drive one at a time."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
from tiny_policies import DONE, ENVIRONMENTS, chat, hidden_task, say, scripted, tasks

from fission_grpo.algorithm.batch import rows_of
from fission_grpo.algorithm.credit import Credit
from fission_grpo.algorithm.judge import Judge
from fission_grpo.algorithm.losses import GRPO
from fission_grpo.algorithm.offline import fission_source
from fission_grpo.algorithm.source import FissionSettings
from fission_grpo.algorithm.stages import Stages
from fission_grpo.policy.base import Sampling
from fission_grpo.policy.scripted import ScriptedPolicy
from fission_grpo.rollout import Dialogue, Horizon, Trajectory, open_task, rollout
from fission_grpo.simulator.rules import RulesSimulator
from fission_grpo.types import Completion, EndReason, FinishReason, GroupKind, Task

TASK = hidden_task()
FIRST, LAST = TASK.gold[0][0], TASK.gold[0][-1]
RECOVERS = (say(LAST), say(FIRST), say(LAST), DONE)
"""Forgets what must come first, reads the error, mends it."""
GIVES_UP = (say(LAST), DONE)
TURNS, TOKENS = 6, 200


def dialogue(task: Task = TASK, *, horizon: Horizon = Horizon.TURN) -> Dialogue:
    start = open_task(task, chat=chat(), environments=ENVIRONMENTS)
    return Dialogue(start, chat=chat(), horizon=horizon, max_turns=TURNS, room=1 << 16)


def completion(text: str) -> Completion:
    ids = (*chat().renderer.encode(text), chat().eos_id)
    return Completion(ids=ids, logprobs=(0.0,) * len(ids), finish=FinishReason.STOP)


def played(*answers: str, task: Task = TASK, horizon: Horizon = Horizon.TURN) -> Trajectory:
    (trajectory,) = rollout(
        [open_task(task, chat=chat(), environments=ENVIRONMENTS)],
        policy=scripted(*answers),
        chat=chat(),
        sampling=Sampling(max_tokens=TOKENS),
        horizons=[horizon],
        max_turns=TURNS,
        seed=0,
    )
    return trajectory


def said(one: Trajectory) -> tuple[object, ...]:
    """A trajectory but for its snapshots, which are opaque, and for how long its calls took."""
    replies = [[(outcome.kind, outcome.text, outcome.error) for outcome in turn.outcomes] for turn in one.turns]
    return one.task, one.prompt, one.ids, one.sampled, one.logprobs, one.given, replies, one.end, one.verdict, one.fault


@pytest.mark.parametrize("answers", [RECOVERS, (DONE,), GIVES_UP], ids=["recovers", "words", "gives up"])
def test_a_dialogue_that_is_driven_by_hand_is_what_rollout_makes(answers: tuple[str, ...]) -> None:
    one, rest = dialogue(), iter(answers)
    contexts = []
    while (context := one.context) is not None:
        contexts.append(context)
        following = one.advance(completion(next(rest)))
        assert following == one.context
    whole = played(*answers)
    assert said(one.trajectory()) == said(whole)
    # Every context is a prefix of the trajectory that ends where a message begins.
    assert contexts == [whole.ids[: turn.start] for turn in whole.turns]


def test_a_dialogue_can_be_pickled_between_two_completions() -> None:
    one = dialogue()
    for answer in RECOVERS:
        one = pickle.loads(pickle.dumps(one))
        one.advance(completion(answer))
    assert one.context is None
    assert said(one.trajectory()) == said(played(*RECOVERS))


def test_a_dialogue_that_has_ended_takes_no_completion() -> None:
    one = dialogue()
    assert one.advance(completion(DONE)) is None
    with pytest.raises(ValueError, match=r"the dialogue has ended \(answered\); expected no completion"):
        one.advance(completion(DONE))


def test_a_dialogue_that_goes_on_has_no_record_yet() -> None:
    with pytest.raises(ValueError, match="the dialogue still goes on; advance it until it has no context"):
        dialogue().trajectory()


def test_a_dialogue_without_room_has_no_context() -> None:
    start = open_task(TASK, chat=chat(), environments=ENVIRONMENTS)
    full = Dialogue(start, chat=chat(), horizon=Horizon.TURN, max_turns=TURNS, room=len(start.transcript.ids) - 1)
    assert (full.context, full.trajectory().end, full.trajectory().turns) == (None, EndReason.CONTEXT, ())


def stages(
    policy: ScriptedPolicy,
    *,
    rank: int = 0,
    horizon: Horizon = Horizon.TURN,
    recovery: Horizon = Horizon.TURN,
    **settings: str,
) -> Stages:
    return Stages(
        policy=policy,
        chat=chat(),
        environments=ENVIRONMENTS,
        judge=Judge(chat=chat()),
        source=fission_source(
            FissionSettings.model_validate({"contexts": 2, "group_size": 3, "horizon": recovery, **settings}),
            simulator=RulesSimulator(),
            chat=chat(),
            seed=0,
        ),
        sampling=Sampling(max_tokens=TOKENS),
        group_size=2,
        horizon=horizon,
        max_turns=TURNS,
        seed=0,
        rank=rank,
    )


def test_explore_observe_recover() -> None:
    made = stages(scripted(*GIVES_UP), rank=1)
    (group,) = made.explore([TASK], step=7, progress=0.5)
    assert (group.id, group.kind, len(group.members)) == ("7/exploration/1.0", GroupKind.EXPLORATION, 2)
    assert not made.next_contexts()  # nothing has been observed yet
    made.observe([group], step=7)
    (context,) = made.next_contexts()  # both members failed alike: one context
    failed = group.members[0].trajectory
    assert context.x_ids + context.error_ids == failed.ids[: failed.turns[0].stop]
    (fission,) = made.recover([context], step=7, progress=0.5)
    assert (fission.id, fission.kind, len(fission.members)) == ("7/fission/1.0", GroupKind.FISSION, 3)
    for member in fission.members:
        trajectory = member.trajectory
        assert trajectory.ids[: trajectory.prompt] == context.ids
        assert not any(trajectory.sampled[: trajectory.prompt])  # the failed call is a condition, never a lesson
    assert not made.next_contexts()  # depth 1: what fails in a recovery is not fissioned again


@pytest.mark.parametrize(("weight", "expected"), [("even", 1.0), ("failing_share", 0.5)])
def test_a_fission_group_weighs_what_its_context_says(weight: str, expected: float) -> None:
    made = stages(scripted(*GIVES_UP), weight=weight)
    (group,) = made.explore([TASK], step=0, progress=0.0)
    made.observe([replace(group, members=(group.members[0], replace(group.members[1], success=True)))], step=0)
    (fission,) = made.recover(made.next_contexts(), step=0, progress=0.0)
    assert (group.weight, fission.weight) == (1.0, expected)


def test_credit_by_the_tree_finds_the_failed_call_of_an_episode() -> None:
    made = stages(scripted(*GIVES_UP))
    groups = made.explore([TASK], step=0, progress=0.0)
    made.observe(groups, step=0)
    groups += made.recover(made.next_contexts(), step=0, progress=0.0)
    # Everybody fails in the same words and gives up, so nothing tells the failed calls apart. Who only recovers has
    # made no call at all, which is worth less: behind the failed call the two explorers did better than the recoveries.
    for row, member in zip(rows_of(groups, GRPO, credit=Credit.TREE)[:2], groups[0].members, strict=True):
        failed, last = member.trajectory.turns
        assert not any(row.advantages[: last.start])
        assert failed.stop < last.start
        assert all(advantage > 0 for advantage in row.advantages[last.start : last.stop])
    # Recoveries do not differ from each other either.
    assert not any(any(row.advantages) for row in rows_of(groups, GRPO, credit=Credit.TREE)[2:])


@pytest.mark.parametrize(
    ("horizon", "recovery", "messages", "terms"),
    [
        (Horizon.CALL, Horizon.CALL, 1, {"format", "correctness", "length"}),
        (Horizon.CALL, Horizon.TURN, 3, {"verdict", "progress", "format", "efficiency", "repeat"}),
    ],
    ids=["the paper's", "ours"],
)
def test_a_recovery_of_one_call_is_judged_as_the_call_that_failed(
    horizon: Horizon, recovery: Horizon, messages: int, terms: set[str]
) -> None:
    """The paper's is a single message under exploration's reward and reference; ours goes on."""
    made = stages(scripted(*RECOVERS), horizon=horizon, recovery=recovery)
    (group,) = made.explore([TASK], step=0, progress=0.25)
    made.observe([group], step=0)
    (context,) = made.next_contexts()
    (fission,) = made.recover([context], step=0, progress=0.25)
    recovered = fission.members[0]
    assert recovered.reward is not None
    assert len(recovered.trajectory.turns) == messages
    assert {term.name for term in recovered.reward.terms} == terms
    assert recovered.success
    if recovery is Horizon.CALL:
        # w_fmt(0.25) = 1.75, w_corr(0.25) = 1.25; everything is right: (1.75 + 1.25 + 1) / 3.
        assert recovered.reward.total == pytest.approx(4 / 3)
        failed = group.members[0].reward
        assert failed is not None
        assert {term.name: term.weight for term in recovered.reward.terms} == {
            term.name: term.weight for term in failed.terms
        }


def test_some_of_the_tasks_go_to_the_end_of_the_turn() -> None:
    made = stages(scripted(*RECOVERS), horizon=Horizon.CALL)
    single, whole = made.explore([TASK, TASK], step=0, progress=0.0, whole_turns=1)
    assert [(len(m.trajectory.turns), m.success) for m in single.members] == [(1, False)] * 2
    assert [(len(m.trajectory.turns), m.success) for m in whole.members] == [(4, True)] * 2
    assert (single.id, whole.id) == ("0/exploration/0.0", "0/exploration/0.1")


def test_without_tasks_or_contexts_nothing_is_sampled() -> None:
    made = stages(scripted())
    assert made.explore([], step=0, progress=0.0) == []
    assert made.recover([], step=0, progress=0.0) == []


def test_what_crosses_processes_can_be_pickled() -> None:
    made = stages(scripted(*GIVES_UP))
    groups = made.explore([TASK, *tasks()[:1]], step=0, progress=0.0)
    made.observe(groups, step=0)
    contexts = made.next_contexts()
    groups += made.recover(contexts, step=0, progress=0.0)
    assert {group.kind for group in groups} == {GroupKind.EXPLORATION, GroupKind.FISSION}
    again, restored = pickle.loads(pickle.dumps((groups, contexts)))
    assert rows_of(again, GRPO) == rows_of(groups, GRPO)
    for before, after in zip(contexts, restored, strict=True):
        assert (after.key, after.ids) == (before.key, before.ids)
        environments = [context.start(ENVIRONMENTS).environment for context in (before, after)]
        hashes = {world.state_hash() for world in environments if world is not None}
        assert len(hashes) == 1
