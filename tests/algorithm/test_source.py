"""Failures become training conditions: observed once, diagnosed, kept freshest first, and entered exactly."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tiny_contexts import TEMPLATE, context
from tiny_policies import DONE, ENVIRONMENTS, LetterByLetter, chat, fails_alone, say, script, scripted, tasks

from fission_grpo.algorithm.buffer import LifoBuffer
from fission_grpo.algorithm.context import CorrectiveContext, Parent
from fission_grpo.algorithm.groups import Group
from fission_grpo.algorithm.judge import Judge
from fission_grpo.algorithm.source import FissionSettings, FissionSource
from fission_grpo.environments.base import Environments
from fission_grpo.environments.bfcl.environment import BFCL, BfclEnvironment
from fission_grpo.errors import EnvironmentFault, SimulatorError
from fission_grpo.policy.base import Policy, Sampling
from fission_grpo.policy.scripted import ScriptedPolicy
from fission_grpo.rollout import Horizon, Start, Trajectory, open_task, rollout
from fission_grpo.simulator.base import ErrorSimulator, FailedCall, Fallback, Feedback
from fission_grpo.simulator.passthrough import PassthroughSimulator
from fission_grpo.simulator.rules import RulesSimulator
from fission_grpo.simulator.static import STATIC_TEXT, StaticSimulator
from fission_grpo.types import ErrorClass, GroupKind, Task, ToolCall, ToolOutcome

HIDDEN = [task for task in tasks() if fails_alone(task)]
TASK = HIDDEN[0]


def wrong(number: int) -> str:
    """A call of a tool that is not on offer: an explicit error, another one for every number."""
    return say(ToolCall(name=f"missing_{number}", arguments={}))


def forgets(task: Task) -> str:
    """The last gold call without what must come before it."""
    return say(task.gold[0][-1])


def mends(task: Task) -> tuple[str, ...]:
    """What a recovery from `forgets` says."""
    return (*map(say, task.gold[0]), DONE)


def recovering(context: CorrectiveContext, *answers: str) -> ScriptedPolicy:
    """Goes on where the context ends: the assistant messages before it are not its own."""
    return scripted(*[""] * len(context.before), *answers)


def group(
    *policies: Policy,
    task: Task = TASK,
    context: CorrectiveContext | None = None,
    horizon: Horizon = Horizon.TURN,
    environments: Environments = ENVIRONMENTS,
    name: str = "0/exploration/0.0",
) -> Group:
    """One trajectory of each policy, judged."""
    judge = Judge(chat=chat())
    members = []
    for policy in policies:
        start = context.start(environments) if context else open_task(task, chat=chat(), environments=environments)
        (trajectory,) = roll([start], policy, horizon)
        before = context.before if context else ()
        members.append(judge(trajectory, horizon=horizon, progress=0.0, before=before))
    kind = GroupKind.FISSION if context else GroupKind.EXPLORATION
    return Group(id=name, kind=kind, task=task, members=tuple(members), context=context)


def roll(starts: Sequence[Start], policy: Policy, horizon: Horizon = Horizon.TURN) -> list[Trajectory]:
    return rollout(
        starts,
        policy=policy,
        chat=chat(),
        sampling=Sampling(max_tokens=400),
        horizons=[horizon] * len(starts),
        max_turns=5,
        seed=0,
    )


def source(simulator: ErrorSimulator | None = None, **settings: int | bool | str) -> FissionSource:
    return FissionSource(
        FissionSettings.model_validate({"contexts": 2, **settings}),
        simulator=simulator or RulesSimulator(),
        chat=chat(),
    )


def failed_at_once(number: int) -> Group:
    """A group that fails with an error of its own."""
    return group(scripted(wrong(number), DONE), name=f"{number}/exploration/0.0")


# The corrective context.


def test_x_corr_is_the_dialogue_the_failed_message_and_the_feedback() -> None:
    fission = source(StaticSimulator())
    fission.observe([group(scripted(forgets(TASK), DONE))], policy_version=4)
    (context,) = fission.next_contexts()
    assert context.x_ids == chat().prompt(TASK.messages, TASK.tools)
    assert chat().renderer.decode(context.error_ids) == forgets(TASK) + "<|im_end|>"
    feedback = f"\n<|im_start|>tool\n{STATIC_TEXT}<|im_end|>\n<|im_start|>assistant\n"
    assert chat().renderer.decode(context.feedback_ids) == feedback
    assert context.messages[: len(TASK.messages)] == TASK.messages
    assert [message["role"] for message in context.messages[len(TASK.messages) :]] == ["assistant", "tool"]
    assert context.messages[-1]["content"] == STATIC_TEXT
    assert (context.depth, context.policy_version) == (1, 4)
    assert context.parent == Parent(group="0/exploration/0.0", trajectory=0, turn=0)


def test_the_failed_message_keeps_its_very_tokens() -> None:
    """Sampled in a spelling that no tokenizer would choose, it stays so in the condition, and is not trained."""
    policy = LetterByLetter(script(forgets(TASK), DONE))
    found = group(policy)
    fission = source()
    fission.observe([found], policy_version=0)
    (context,) = fission.next_contexts()
    failed = found.members[0].trajectory.turns[0]
    assert context.error_ids == failed.completion.ids
    assert len(context.error_ids) > len(chat().renderer.encode(forgets(TASK))) + 1
    transcript = context.start(ENVIRONMENTS).transcript
    assert transcript.ids == context.x_ids + context.error_ids + context.feedback_ids
    assert not any(transcript.sampled)
    assert not any(transcript.logprobs)


def test_a_failure_in_mid_episode_keeps_the_turns_before_it() -> None:
    read = say(ToolCall(name="missing_0", arguments={}))
    found = group(scripted(*map(say, TASK.gold[0]), read, DONE))
    fission = source()
    fission.observe([found], policy_version=0)
    (context,) = fission.next_contexts()
    trajectory = found.members[0].trajectory
    assert context.parent.turn == len(TASK.gold[0])
    assert context.x_ids == trajectory.ids[: trajectory.turns[-2].start]
    assert context.before == trajectory.turns[:-1]
    assert context.start(ENVIRONMENTS).messages == context.messages


def test_the_simulator_never_sees_what_would_be_right() -> None:
    seen: list[FailedCall] = []

    class Curious(StaticSimulator):
        def diagnose(self, failed: Sequence[FailedCall]) -> list[Feedback]:
            seen.extend(failed)
            return super().diagnose(failed)

    source(Curious()).observe([group(scripted(forgets(TASK), DONE))], policy_version=0)
    (failed,) = seen
    assert (failed.messages, failed.tools, failed.text) == (TASK.messages, TASK.tools, forgets(TASK))
    assert failed.outcomes[0].is_error
    secret = repr(TASK.gold[0][0].arguments)
    assert secret not in repr(failed)


# The world of a recovery.


@pytest.mark.parametrize("task", HIDDEN, ids=lambda task: task.id)
@pytest.mark.parametrize("first", [(), (0,)], ids=["at once", "after a success"])
def test_every_recovery_starts_from_the_world_right_after_the_failed_call(task: Task, first: tuple[int, ...]) -> None:
    """However often a context is entered, and whatever earlier recoveries have done to their worlds."""
    played = [task.gold[0][place] for place in first]
    failed = ToolCall(name="missing_0", arguments={})
    fission = source()
    fission.observe([group(scripted(*map(say, played), say(failed), DONE), task=task)], policy_version=0)
    (context,) = fission.next_contexts()

    reference = BfclEnvironment()
    reference.reset(task)
    for call in (*played, failed):
        reference.execute(call)
    expected = reference.state_hash()

    siblings = [context.start(ENVIRONMENTS) for _ in range(3)]
    assert [world_hash(start) for start in siblings] == [expected] * 3
    roll([siblings[0]], recovering(context, *mends(task)))  # one recovery acts ...
    assert world_hash(siblings[0]) != expected
    assert [world_hash(start) for start in siblings[1:]] == [expected] * 2  # ... and its siblings do not feel it,
    assert world_hash(context.start(ENVIRONMENTS)) == expected  # nor does one that starts later


def world_hash(start: Start) -> str:
    assert start.environment is not None
    return start.environment.state_hash()


def test_a_recovery_can_solve_the_task() -> None:
    fission = source()
    fission.observe([group(scripted(forgets(TASK), DONE))], policy_version=0)
    (context,) = fission.next_contexts()
    family = group(recovering(context, *mends(TASK)), recovering(context, forgets(TASK), DONE), context=context)
    assert [member.success for member in family.members] == [True, False]
    repeated = family.members[1].reward
    assert repeated is not None
    assert repeated.value("repeat") == 0.0  # the failed call was made again, word for word


def test_a_decision_point_without_a_world_is_entered_without_one() -> None:
    task = replace(TASK, world=None, target=TASK.gold[0][:1])
    fission = source()
    fission.observe([group(scripted(wrong(1)), task=task, horizon=Horizon.CALL)], policy_version=0)
    (context,) = fission.next_contexts()
    assert context.snapshot is None
    assert context.start(ENVIRONMENTS).environment is None


# What is observed.


def test_without_contexts_nothing_is_observed_and_nobody_is_asked() -> None:
    class Untouchable(StaticSimulator):
        def diagnose(self, failed: Sequence[FailedCall]) -> list[Feedback]:
            raise SimulatorError("asked")

    fission = source(Untouchable(), contexts=0)
    fission.observe([failed_at_once(1)], policy_version=0)
    assert (len(fission.buffer), fission.next_contexts()) == (0, [])
    assert fission.state_dict() == source(contexts=0).state_dict()


def test_a_case_that_no_feedback_can_be_written_for_gets_the_fixed_string_and_invalidates_no_other() -> None:
    class Picky(PassthroughSimulator):
        def diagnose(self, failed: Sequence[FailedCall]) -> list[Feedback]:
            if any("missing_1" in one.text for one in failed):
                raise SimulatorError("the schema of missing_1 cannot be read")
            return super().diagnose(failed)

    fission = source(Picky(), contexts=3)
    fission.observe([failed_at_once(number) for number in range(3)], policy_version=0)
    said = [(context.feedback.origin, context.feedback.fallback) for context in fission.next_contexts()]
    assert said == [("passthrough", None), ("static", Fallback.BROKEN), ("passthrough", None)]
    assert (fission.count.observed, fission.count.unwritten) == (3, 1)


def test_a_bug_of_ours_is_no_feedback_that_cannot_be_written() -> None:
    class Buggy(StaticSimulator):
        def diagnose(self, failed: Sequence[FailedCall]) -> list[Feedback]:
            raise ZeroDivisionError("ours")

    with pytest.raises(ZeroDivisionError, match="ours"):
        source(Buggy()).observe([failed_at_once(1)], policy_version=0)


def test_faults_of_ours_are_never_fissioned() -> None:
    class Breaks(BfclEnvironment):
        def execute(self, call: ToolCall) -> ToolOutcome:
            if call == TASK.gold[0][0]:
                raise EnvironmentFault("ours")
            return super().execute(call)

    at_once = group(scripted(say(TASK.gold[0][0]), DONE), environments={BFCL: Breaks})
    after_an_error = group(scripted(forgets(TASK), say(TASK.gold[0][0]), DONE), environments={BFCL: Breaks})
    fission = source(depth=3, per_group=9, silent=True)
    fission.observe([at_once, after_an_error], policy_version=0)
    assert (len(fission.buffer), fission.count.observed, fission.count.failures) == (0, 0, 0)


def test_success_is_not_fissioned() -> None:
    fission = source(silent=True)
    fission.observe([group(scripted(*mends(TASK)))], policy_version=0)
    assert fission.count.failures == 0


def test_a_mended_error_is_still_a_failure_worth_practising() -> None:
    found = group(scripted(forgets(TASK), *mends(TASK)))
    fission = source()
    fission.observe([found], policy_version=0)
    assert found.members[0].success
    assert len(fission.buffer) == 1


@pytest.mark.parametrize(
    ("silent", "world", "recovery", "observed"),
    [
        (False, True, Horizon.TURN, 0),
        (True, True, Horizon.TURN, 1),
        (False, False, Horizon.TURN, 1),
        (False, True, Horizon.CALL, 1),
    ],
    ids=["the world judges", "on demand", "no world", "the reference judges"],
)
def test_silent_failures_are_fissioned_where_a_recovery_can_be_right(
    silent: bool, world: bool, recovery: Horizon, observed: int
) -> None:
    task = replace(TASK, world=TASK.world if world else None)
    found = group(scripted(DONE), task=task, horizon=Horizon.TURN if world else Horizon.CALL)
    assert found.members[0].failure is not None
    assert found.members[0].failure.error is ErrorClass.SILENT
    fission = source(silent=silent, horizon=recovery)
    fission.observe([found], policy_version=0)
    assert (fission.count.observed, fission.count.failures) == (observed, 1)


def test_a_recovery_ends_with_its_user_turn() -> None:
    with pytest.raises(ValidationError, match="a recovery ends with its user turn at the latest"):
        FissionSettings(horizon=Horizon.EPISODE)


@pytest.mark.parametrize("per_group", [1, 2, 9])
def test_a_group_contributes_its_distinct_failures_up_to_a_limit(per_group: int) -> None:
    failing = [scripted(wrong(number), DONE) for number in (1, 1, 2, 3, 2)]
    fission = source(per_group=per_group)
    fission.observe([group(*failing)], policy_version=0)
    assert fission.count.observed == len(fission.buffer) == min(per_group, 3)
    assert fission.count.failures == 5
    assert fission.buffer.duplicates == 0


@pytest.mark.parametrize("depth", [1, 2])
def test_a_failed_recovery_is_fissioned_up_to_the_depth_limit(depth: int) -> None:
    fission = source(depth=depth)
    fission.observe([group(scripted(wrong(1), DONE))], policy_version=0)
    (first,) = fission.next_contexts()
    family = group(recovering(first, wrong(2), DONE), context=first)
    fission.observe([family], policy_version=1)
    deeper = fission.next_contexts()
    assert len(deeper) == depth - 1
    for second in deeper:
        recovery = family.members[0].trajectory
        assert (second.depth, second.policy_version) == (2, 1)
        assert second.x_ids == first.ids
        assert second.before == (*first.before, recovery.turns[0])
        assert second.messages[: len(first.messages)] == first.messages
        third = group(recovering(second, wrong(3), DONE), context=second)
        fission.observe([third], policy_version=2)
        assert fission.next_contexts() == []


@pytest.mark.parametrize(
    "simulator", [StaticSimulator(), PassthroughSimulator(), RulesSimulator()], ids=lambda s: s.name
)
def test_equal_failures_are_one_context_whatever_the_feedback(simulator: ErrorSimulator) -> None:
    fission = source(simulator)
    fission.observe([failed_at_once(1)], policy_version=0)
    fission.observe([failed_at_once(2)], policy_version=1)
    fission.simulator = StaticSimulator()
    fission.observe([failed_at_once(1)], policy_version=2)
    assert (len(fission.buffer), fission.buffer.duplicates, fission.count.observed) == (2, 1, 3)
    top, below = fission.next_contexts()
    assert (top.policy_version, top.feedback.texts) == (2, (STATIC_TEXT,))  # the newer one, and on top
    assert below.policy_version == 1


# When and how contexts come back.


def test_the_freshest_come_first_and_no_more_than_asked_for() -> None:
    fission = source(contexts=2)
    for number in range(5):
        fission.observe([failed_at_once(number)], policy_version=number)
    popped = [[context.policy_version for context in fission.next_contexts()] for _ in range(4)]
    assert popped == [[4, 3], [2, 1], [0], []]
    assert fission.count.used == 5


def test_nothing_comes_back_before_the_trigger() -> None:
    fission = source(trigger=3, contexts=2)
    for number in range(2):
        fission.observe([failed_at_once(number)], policy_version=number)
        assert fission.next_contexts() == []
    fission.observe([failed_at_once(2)], policy_version=2)
    assert len(fission.next_contexts()) == 2
    assert fission.next_contexts() == []  # one is left: too few again
    assert len(fission.buffer) == 1


def test_the_oldest_fall_out_at_the_bottom() -> None:
    fission = source(capacity=2, contexts=8)
    for number in range(4):
        fission.observe([failed_at_once(number)], policy_version=number)
    assert fission.buffer.dropped == 2
    assert [context.policy_version for context in fission.next_contexts()] == [3, 2]


def test_a_trigger_that_could_never_fire_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"trigger 5 is more than the buffer can hold \(capacity 4\)"):
        FissionSettings(trigger=5, capacity=4)


def test_the_state_survives_pickling() -> None:
    fission = source(capacity=2)
    for number in (0, 1, 2, 2):
        fission.observe([failed_at_once(number)], policy_version=number)
    fission.observe([group(scripted(forgets(TASK), DONE))], policy_version=9)
    restored = source(capacity=2)
    restored.load_state_dict(pickle.loads(pickle.dumps(fission.state_dict())))
    assert restored.count == fission.count
    assert (restored.buffer.duplicates, restored.buffer.dropped) == (1, 2)
    ours, theirs = restored.next_contexts(), fission.next_contexts()
    assert ours == theirs
    assert [context.key for context in ours] == [context.key for context in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert world_hash(one.start(ENVIRONMENTS)) == world_hash(other.start(ENVIRONMENTS))
    assert restored.state_dict() == fission.state_dict()


# The buffer against a list.


@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.just("push"), st.integers(0, 5)) | st.tuples(st.just("pop"), st.integers(0, 3))),
)
def test_the_buffer_is_a_stack_of_unique_contexts(capacity: int, steps: list[tuple[str, int]]) -> None:
    buffer, stack = LifoBuffer(capacity), list[CorrectiveContext]()
    dropped = duplicates = 0
    for version, (verb, number) in enumerate(steps):
        if verb == "push":
            fresh = context(number, version)
            older = [c for c in stack if c.error_ids != fresh.error_ids]
            duplicates += len(older) < len(stack)
            dropped += len(older) == capacity
            stack = [*older, fresh][-capacity:]
            buffer.push(fresh)
        else:
            expected = [stack.pop() for _ in range(min(number, len(stack)))]
            assert buffer.pop(number) == expected
        assert len(buffer) == len(stack) <= capacity
    assert (buffer.dropped, buffer.duplicates) == (dropped, duplicates)
    assert buffer.pop(99) == stack[::-1]


def test_the_boundary_between_x_and_the_failed_message_is_part_of_the_identity() -> None:
    assert replace(TEMPLATE, x_ids=(1,), error_ids=(2, 3)).key != replace(TEMPLATE, x_ids=(1, 2), error_ids=(3,)).key
    assert context(1, 0).key == context(1, 5).key
