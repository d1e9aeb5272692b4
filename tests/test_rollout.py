"""Policy x environment -> trajectory, with policies that follow a script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from chat_tokenizers import NANO, byte_tokenizer
from tiny_policies import DONE, ENVIRONMENTS, LetterByLetter, chat, hidden_task, say, script, scripted, tasks

from fission_grpo.algorithm.batch import TrainingBatch
from fission_grpo.algorithm.failures import Fault
from fission_grpo.algorithm.groups import Group
from fission_grpo.algorithm.judge import Judge
from fission_grpo.algorithm.losses import GRPO
from fission_grpo.chat.format import ChatFormat
from fission_grpo.environments.base import Environments, Snapshot
from fission_grpo.environments.bfcl.environment import BFCL, BfclEnvironment
from fission_grpo.errors import ConfigError, EnvironmentFault
from fission_grpo.policy.base import Policy, Sampling
from fission_grpo.rollout import Horizon, Start, Trajectory, open_task, render_prompts, rollout
from fission_grpo.tasks.synthesis.generator import Mixture, synthesise
from fission_grpo.types import (
    EndReason,
    ErrorClass,
    FinishReason,
    GroupKind,
    OutcomeKind,
    Task,
    ToolCall,
    ToolOutcome,
    Verdict,
)

BROKEN = '<tool_call>\n{"name": \n</tool_call>'

TASK = hidden_task()
FIRST, LAST = TASK.gold[0][0], TASK.gold[0][-1]
RECOVERS = (say(LAST), say(FIRST), say(LAST), DONE)
"""Forgets what must come first, reads the error, mends it."""


def play(
    *answers: str,
    task: Task = TASK,
    policy: Policy | None = None,
    horizon: Horizon = Horizon.TURN,
    max_turns: int = 6,
    max_tokens: int = 200,
    environments: Environments = ENVIRONMENTS,
) -> Trajectory:
    (trajectory,) = rollout(
        [open_task(task, chat=chat(), environments=environments)],
        policy=policy or scripted(*answers),
        chat=chat(),
        sampling=Sampling(max_tokens=max_tokens),
        horizons=[horizon],
        max_turns=max_turns,
        seed=0,
    )
    return trajectory


def kinds(trajectory: Trajectory) -> list[list[str]]:
    return [[outcome.kind.value for outcome in turn.outcomes] for turn in trajectory.turns]


def ok(trajectory: Trajectory) -> bool:
    return trajectory.verdict is not None and trajectory.verdict.ok


def assert_exact(trajectory: Trajectory) -> None:
    """The mask is true exactly where a turn lies; outside of it nothing has a log-probability."""
    mask = [False] * len(trajectory.ids)
    for turn in trajectory.turns:
        assert trajectory.ids[turn.start : turn.stop] == turn.completion.ids
        assert trajectory.logprobs[turn.start : turn.stop] == turn.completion.logprobs
        mask[turn.start : turn.stop] = [True] * len(turn.completion.ids)
    assert list(trajectory.sampled) == mask
    assert not any(trajectory.sampled[: trajectory.prompt])
    outside = [logprob for logprob, sampled in zip(trajectory.logprobs, mask, strict=True) if not sampled]
    assert not any(outside)
    assert len(trajectory.snapshots) == len(trajectory.turns)


def test_a_policy_that_recovers() -> None:
    trajectory = play(*RECOVERS)
    assert trajectory.end is EndReason.ANSWERED
    assert kinds(trajectory) == [["error"], ["success"], ["success"], []]
    assert ok(trajectory)
    assert_exact(trajectory)


def test_a_policy_that_repeats_its_error_for_ever() -> None:
    trajectory = play(say(LAST), max_turns=4)
    assert trajectory.end is EndReason.MAX_TURNS
    assert kinds(trajectory) == [["error"]] * 4
    assert not ok(trajectory)
    assert trajectory.turns[-1].stop == len(trajectory.ids)  # nothing is appended that nobody will read
    assert_exact(trajectory)


def test_a_policy_that_answers_at_once() -> None:
    trajectory = play(DONE)
    assert (trajectory.end, kinds(trajectory), ok(trajectory)) == (EndReason.ANSWERED, [[]], False)
    assert_exact(trajectory)


def test_a_malformed_call_is_answered_as_a_tool_error_and_the_episode_goes_on() -> None:
    trajectory = play(BROKEN, say(*TASK.gold[0]), DONE)
    (reply,) = trajectory.turns[0].outcomes
    assert (reply.kind, reply.error) == (OutcomeKind.ERROR, ErrorClass.FORMAT)
    assert reply.text.startswith("error: malformed tool call: ")
    assert reply.text in chat().renderer.decode(trajectory.ids[trajectory.turns[0].stop : trajectory.turns[1].start])
    assert (trajectory.end, ok(trajectory)) == (EndReason.ANSWERED, True)
    assert_exact(trajectory)


def test_no_call_of_a_malformed_message_is_executed() -> None:
    trajectory = play(say(FIRST) + BROKEN, DONE)
    assert [outcome.error for outcome in trajectory.turns[0].outcomes] == [ErrorClass.FORMAT]
    environment = BfclEnvironment()
    environment.reset(TASK)
    untouched = environment.state_hash()
    environment.restore(trajectory.snapshots[0])
    assert environment.state_hash() == untouched


def test_the_token_limit_cuts_a_message_and_ends_the_trajectory() -> None:
    trajectory = play(*RECOVERS, max_tokens=5)
    assert trajectory.end is EndReason.LENGTH
    assert [turn.completion.finish for turn in trajectory.turns] == [FinishReason.LENGTH]
    assert len(trajectory.ids) == trajectory.prompt + 5
    assert_exact(trajectory)


def test_several_calls_of_one_message_each_get_their_reply() -> None:
    trajectory = play(say(*TASK.gold[0]), DONE)
    assert kinds(trajectory) == [["success"] * len(TASK.gold[0]), []]
    replies = chat().renderer.decode(trajectory.ids[trajectory.turns[0].stop : trajectory.turns[1].start])
    assert replies.count("<|im_start|>tool") == len(TASK.gold[0])


def test_a_decision_point_is_one_message_and_asks_no_world_for_a_verdict() -> None:
    trajectory = play(*RECOVERS, horizon=Horizon.CALL)
    assert (trajectory.end, kinds(trajectory), trajectory.verdict) == (EndReason.HORIZON, [["error"]], None)
    without_gold = play(*RECOVERS, task=replace(TASK, gold=()), horizon=Horizon.CALL)
    assert (without_gold.end, without_gold.verdict) == (EndReason.HORIZON, None)


def test_without_a_world_nothing_answers_and_nothing_judges() -> None:
    trajectory = play(say(LAST), task=replace(TASK, world=None), horizon=Horizon.CALL)
    assert (trajectory.end, trajectory.snapshots, trajectory.verdict) == (EndReason.HORIZON, (None,), None)
    assert trajectory.turns[0].parsed.calls == (LAST,)
    assert_exact(trajectory)


# Follow-ups: the user speaks again.

(CHAT_TASK,) = synthesise(
    1, 1, apis=("GorillaFileSystem",), tools=(2, 3), mixture=Mixture(calls=(0.0, 1.0, 0.0), two_turns=1.0)
)
TWO_TURNS = (*(say(call) for call in CHAT_TASK.gold[0]), DONE, *(say(call) for call in CHAT_TASK.gold[1]), DONE)


def test_an_episode_goes_through_all_follow_ups() -> None:
    assert len(CHAT_TASK.followups) == 1
    trajectory = play(*TWO_TURNS, task=CHAT_TASK, horizon=Horizon.EPISODE)
    assert (trajectory.end, ok(trajectory)) == (EndReason.ANSWERED, True)
    assert len(trajectory.turns) == len(TWO_TURNS)
    assert CHAT_TASK.followups[0] in chat().renderer.decode(trajectory.ids)
    assert_exact(trajectory)


def test_a_turn_ends_before_the_user_speaks_again() -> None:
    trajectory = play(*TWO_TURNS, task=CHAT_TASK, horizon=Horizon.TURN)
    assert (trajectory.end, ok(trajectory)) == (EndReason.ANSWERED, True)
    assert len(trajectory.turns) == len(CHAT_TASK.gold[0]) + 1
    assert CHAT_TASK.followups[0] not in chat().renderer.decode(trajectory.ids)


def test_the_limit_of_messages_counts_anew_for_each_user_message() -> None:
    longest = max(map(len, CHAT_TASK.gold)) + 1
    assert play(*TWO_TURNS, task=CHAT_TASK, horizon=Horizon.EPISODE, max_turns=longest).end is EndReason.ANSWERED
    cut = play(*TWO_TURNS, task=CHAT_TASK, horizon=Horizon.EPISODE, max_turns=len(CHAT_TASK.gold[0]))
    assert cut.end is EndReason.MAX_TURNS


# The context window.


def test_a_prompt_that_leaves_no_room_is_not_even_started() -> None:
    prompt = len(open_task(TASK, chat=chat(), environments=ENVIRONMENTS).transcript.ids)
    full = play(policy=scripted(DONE, window=prompt + 19), max_tokens=20)
    assert (full.end, full.turns, len(full.ids)) == (EndReason.CONTEXT, (), prompt)
    fits = play(policy=scripted(DONE, window=prompt + 20), max_tokens=20)
    assert fits.end is EndReason.ANSWERED


def test_a_reply_that_leaves_no_room_ends_the_trajectory() -> None:
    prompt = len(open_task(TASK, chat=chat(), environments=ENVIRONMENTS).transcript.ids)
    trajectory = play(policy=scripted(*RECOVERS, window=prompt + 65), max_tokens=60)
    assert (trajectory.end, kinds(trajectory)) == (EndReason.CONTEXT, [["error"]])
    assert trajectory.turns[0].stop == len(trajectory.ids)
    assert_exact(trajectory)


# Exact tokens.


def test_sampled_tokens_are_never_tokenised_again() -> None:
    policy = LetterByLetter(script(*RECOVERS))
    trajectory = play(policy=policy, max_tokens=400)
    assert ok(trajectory)
    assert_exact(trajectory)
    for turn, answer in zip(trajectory.turns, RECOVERS, strict=True):
        assert turn.text == answer
        assert (
            len(turn.completion.ids) > len(chat().renderer.encode(answer)) + 1
        )  # another spelling than the tokenizer's
    for turn, context in zip(trajectory.turns, policy.asked, strict=True):
        assert context == trajectory.ids[: turn.start]


def test_tokens_and_messages_tell_the_same_dialogue() -> None:
    trajectory = play(*RECOVERS)
    for number, turn in enumerate(trajectory.turns):
        assert chat().prompt(trajectory.dialogue(number), TASK.tools) == trajectory.ids[: turn.start]


# Side by side: many trajectories, each in a world of its own.


def side_by_side(starts: Sequence[Start], *answers: str) -> list[Trajectory]:
    return rollout(
        starts,
        policy=scripted(*answers),
        chat=chat(),
        sampling=Sampling(max_tokens=200),
        horizons=[Horizon.TURN] * len(starts),
        max_turns=4,
        seed=0,
    )


def story(trajectory: Trajectory) -> tuple[Any, ...]:
    """Everything but how long it took."""
    texts = [[outcome.text for outcome in turn.outcomes] for turn in trajectory.turns]
    return trajectory.ids, trajectory.sampled, texts, trajectory.end, trajectory.verdict


def test_no_world_leaks_into_another() -> None:
    """Siblings that act, siblings that would notice, and other tasks between them: all as if they were alone."""
    clean = play(*RECOVERS)
    order = [TASK, tasks()[0], TASK, tasks()[-1], TASK]
    together = side_by_side([open_task(task, chat=chat(), environments=ENVIRONMENTS) for task in order], *RECOVERS)
    for task, trajectory in zip(order, together, strict=True):
        if task is TASK:
            assert story(trajectory) == story(clean)
    again = side_by_side([open_task(TASK, chat=chat(), environments=ENVIRONMENTS)], say(LAST), DONE)
    assert kinds(again[0]) == [["error"], []]  # nobody who logged in or moved before has left anything behind


def test_a_start_is_forked_and_never_changed() -> None:
    start = open_task(TASK, chat=chat(), environments=ENVIRONMENTS)
    before = start.transcript.ids
    side_by_side([start], *RECOVERS)
    assert start.transcript.ids == before


def test_an_unknown_environment_is_named_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match="unknown environment 'bfcl'; known: none"):
        open_task(TASK, chat=chat(), environments={})


# Faults of ours.


class Broken(BfclEnvironment):
    """A world whose machinery breaks at one of its verbs."""

    def __init__(self, at: str) -> None:
        super().__init__()
        self.at = at

    def _break(self, verb: str) -> None:
        if verb == self.at:
            raise EnvironmentFault(f"{verb} broke")

    def reset(self, task: Task) -> None:
        self._break("reset")
        super().reset(task)

    def execute(self, call: ToolCall) -> ToolOutcome:
        self._break("execute")
        return super().execute(call)

    def snapshot(self) -> Any:
        self._break("snapshot")
        return super().snapshot()

    def next_turn(self) -> None:
        self._break("next_turn")
        super().next_turn()

    def score(self) -> Verdict:
        self._break("score")
        return super().score()


VERBS = pytest.mark.parametrize("verb", ["reset", "execute", "snapshot", "next_turn", "score"])


@VERBS
def test_a_broken_world_masks_its_trajectory_and_no_other(verb: str) -> None:
    starts = [
        open_task(CHAT_TASK, chat=chat(), environments={BFCL: world})
        for world in (BfclEnvironment, lambda: Broken(verb))
    ]
    whole, invalid = rollout(
        starts,
        policy=scripted(*TWO_TURNS),
        chat=chat(),
        sampling=Sampling(max_tokens=200),
        horizons=[Horizon.EPISODE] * 2,
        max_turns=6,
        seed=0,
    )
    assert story(whole) == story(play(*TWO_TURNS, task=CHAT_TASK, horizon=Horizon.EPISODE))
    assert (invalid.end, invalid.fault, invalid.verdict) == (EndReason.HARNESS_FAULT, f"{verb} broke", None)
    assert not invalid.valid
    assert_exact(invalid)


@VERBS
def test_an_invalid_trajectory_has_neither_reward_nor_gradient_nor_failure_of_the_model(verb: str) -> None:
    judge = Judge(chat=chat())
    invalid = play(*TWO_TURNS, task=CHAT_TASK, horizon=Horizon.EPISODE, environments={BFCL: lambda: Broken(verb)})
    good, bad = (play(*said, task=CHAT_TASK) for said in (TWO_TURNS, (DONE,)))
    members = tuple(judge(t, horizon=Horizon.TURN, progress=0.0) for t in (good, invalid, bad))
    assert [member.reward is None for member in members] == [False, True, False]
    assert not members[1].success
    assert members[1].failure is not None
    assert members[1].failure.fault is Fault.INFRASTRUCTURE
    group = Group(id="g", kind=GroupKind.EXPLORATION, task=CHAT_TASK, members=members, context=None)
    batch = TrainingBatch.of([group], GRPO, max_tokens=100, device=torch.device("cpu"))
    assert [row.ids for row in batch.rows] == [good.ids, bad.ids]


def test_an_error_before_the_fault_is_not_held_against_the_model() -> None:
    class BreaksLate(BfclEnvironment):
        calls = 0

        def execute(self, call: ToolCall) -> ToolOutcome:
            self.calls += 1
            if self.calls == 2:
                raise EnvironmentFault("late")
            return super().execute(call)

    member = Judge(chat=chat())(play(*RECOVERS, environments={BFCL: BreaksLate}), horizon=Horizon.TURN, progress=0.0)
    assert kinds(member.trajectory) == [["error"], ["harness_fault"]]
    assert member.failure is not None
    assert (member.failure.fault, member.failure.turn) == (Fault.INFRASTRUCTURE, 1)


def test_a_world_that_cannot_be_built_invalidates_its_trajectory_before_the_first_token() -> None:
    class Unbuildable(BfclEnvironment):
        def reset(self, task: Task) -> None:
            raise ConfigError("no server")

    policy = LetterByLetter(script(*RECOVERS))
    starts = [open_task(TASK, chat=chat(), environments={BFCL: world}) for world in (Unbuildable, BfclEnvironment)]
    invalid, whole = rollout(
        starts,
        policy=policy,
        chat=chat(),
        sampling=Sampling(max_tokens=400),
        horizons=[Horizon.TURN] * 2,
        max_turns=6,
        seed=0,
    )
    assert (invalid.turns, invalid.end, invalid.fault) == ((), EndReason.HARNESS_FAULT, "no server")
    assert ok(whole)
    assert len(policy.asked) == len(RECOVERS)  # the policy never hears of the other one


@pytest.mark.parametrize("raises", [True, False])
def test_a_fault_is_told_where_it_happened_whether_it_is_raised_or_returned(raises: bool) -> None:
    """The calls before it keep their answers, the calls behind it are not made, and nothing is sampled any more."""

    class BreaksSecond(BfclEnvironment):
        calls = 0

        def execute(self, call: ToolCall) -> ToolOutcome:
            self.calls += 1
            if self.calls < 2:
                return super().execute(call)
            if raises:
                raise EnvironmentFault("the server is gone")
            return ToolOutcome(kind=OutcomeKind.HARNESS_FAULT, text="the server is gone")

    trajectory = play(say(FIRST, LAST, LAST), DONE, environments={BFCL: BreaksSecond})
    assert kinds(trajectory) == [["success", "harness_fault"]]
    assert (trajectory.end, trajectory.fault) == (EndReason.HARNESS_FAULT, "the server is gone")
    assert (trajectory.snapshots, trajectory.verdict) == ((None,), None)


def test_what_is_not_a_fault_of_the_world_is_not_caught() -> None:
    class Buggy(BfclEnvironment):
        def execute(self, call: ToolCall) -> ToolOutcome:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        play(*RECOVERS, environments={BFCL: Buggy})


def test_snapshots_hold_the_world_as_it_was_after_each_turn() -> None:
    trajectory = play(*RECOVERS)
    live, replayed = BfclEnvironment(), BfclEnvironment()
    live.reset(TASK)
    replayed.reset(TASK)
    snapshots: Sequence[Snapshot | None] = trajectory.snapshots
    for turn, snapshot in zip(trajectory.turns, snapshots, strict=True):
        for call in turn.parsed.calls:
            live.execute(call)
        replayed.restore(snapshot)
        assert replayed.state_hash() == live.state_hash()


def test_a_task_that_the_template_refuses_is_named() -> None:
    refusing = "{%- if messages[0].content == 'no' %}{{ raise_exception('not this one') }}{% endif %}" + NANO
    said = [{"role": "user", "content": word} for word in ("yes", "no")]
    two = [Task(id=one["content"], messages=(one,), tools=()) for one in said]
    with pytest.raises(ConfigError, match=r"task no: .*not this one"):
        render_prompts(two, chat=ChatFormat(byte_tokenizer(refusing)), window=10_000, max_tokens=1)
