"""Records survive their file, and metrics say what hand arithmetic says."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fission_grpo.errors import DataError
from fission_grpo.evaluation import metrics as m
from fission_grpo.evaluation.events import Follow, error_events, probe_event
from fission_grpo.evaluation.group_outcomes import GroupOutcome, account_groups, group_outcome
from fission_grpo.evaluation.records import (
    EpisodeRecord,
    Probe,
    first_call_right,
    from_line,
    read_records,
    record_episode,
    to_line,
    write_records,
)
from fission_grpo.evaluation.statistics import Rate
from fission_grpo.types import (
    Completion,
    EndReason,
    ErrorClass,
    FinishReason,
    OutcomeKind,
    ParsedMessage,
    ParseFailure,
    ParseFailureKind,
    Task,
    ToolCall,
    ToolOutcome,
    Turn,
    Verdict,
    World,
)

GOLD = ToolCall(name="cd", arguments={"folder": "docs"})
WRONG = ToolCall(name="cd", arguments={"folder": "dox"})
OTHER = ToolCall(name="ls", arguments={})
SUCCESS = ToolOutcome(kind=OutcomeKind.SUCCESS, text="ok")
RIGHT, FALSE = Verdict(ok=True, matched=1.0), Verdict(ok=False, error_type="state")


def error(of: ErrorClass = ErrorClass.NOT_FOUND) -> ToolOutcome:
    return ToolOutcome(kind=OutcomeKind.ERROR, text="no such folder", error=of)


def turn(
    calls: Sequence[ToolCall] = (),
    outcomes: Sequence[ToolOutcome] = (),
    *,
    failures: Sequence[ParseFailure] = (),
    finish: FinishReason = FinishReason.STOP,
) -> Turn:
    parsed = ParsedMessage(content="", calls=tuple(calls), failures=tuple(failures))
    completion = Completion(ids=(5, 6, 7), logprobs=(-0.1, -0.2, -0.3), finish=finish)
    return Turn(completion=completion, text="text", parsed=parsed, outcomes=tuple(outcomes), start=0)


def bad(call: ToolCall = WRONG, of: ErrorClass = ErrorClass.NOT_FOUND) -> Turn:
    return turn([call], [error(of)])


def good(call: ToolCall = GOLD) -> Turn:
    return turn([call], [SUCCESS])


def broken(block: str = "{") -> Turn:
    failure = ParseFailure(kind=ParseFailureKind.JSON, start=0, text=block, detail="not JSON")
    return turn([], [error(ErrorClass.FORMAT)], failures=[failure])


WORDS = turn()
TASK = Task(
    id="t",
    messages=({"role": "user", "content": "go to docs"},),
    tools=(),
    target=(GOLD,),
    gold=((GOLD,),),
    world=World(environment="bfcl", config={}),
    meta={"apis": ["GorillaFileSystem"]},
)


def episode(
    *turns: Turn,
    verdict: Verdict | None = RIGHT,
    end: EndReason = EndReason.ANSWERED,
    task: Task = TASK,
    probe: Probe | None = None,
) -> EpisodeRecord:
    return replace(record_episode(task, turns, verdict=verdict, end=end), probe=probe)


def test_a_record_survives_its_line() -> None:
    probe = Probe(kind="other_string", error=ErrorClass.NOT_FOUND, call=WRONG, next_call_right=True)
    before = episode(bad(), broken(), good(), WORDS, probe=probe)
    assert from_line(to_line(before)) == before
    assert "\n" not in to_line(before)


def test_a_record_keeps_what_the_user_says_in_every_turn() -> None:
    """The error that stands in the context is a tool's word; the second user turn is never reached."""
    task = replace(
        TASK,
        messages=(*TASK.messages, {"role": "assistant", "content": ""}, {"role": "tool", "content": "no such folder"}),
        followups=("and back",),
        gold=((GOLD,), (GOLD,)),
    )
    assert episode(bad(), task=task).asked == ("go to docs", "and back")
    line = json.loads(to_line(episode(good())))
    assert line.pop("asked") == ["go to docs"]
    assert from_line(json.dumps(line)).asked == ()  # an evaluation of before


def test_unknown_keys_are_ignored() -> None:
    line = json.loads(to_line(episode(good())))
    assert from_line(json.dumps({**line, "later": 1})) == episode(good())


def test_a_file_names_every_bad_line(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    write_records(path, [episode(good()), episode(bad(), verdict=FALSE)])
    assert len(read_records(path)) == 2
    path.write_text(path.read_text() + "{\n" + '{"task": 3}\n')
    with pytest.raises(DataError) as raised:
        read_records(path)
    assert [problem.split(":")[0] for problem in raised.value.problems] == ["line 3", "line 4"]


def test_counts_of_a_record() -> None:
    record = episode(bad(), good(), WORDS)
    assert (record.calls, record.tokens, record.gold_calls) == (2, 9, 1)
    assert record.meta == {"apis": ["GorillaFileSystem"]}


def test_a_plain_answer_opens_the_next_user_turn() -> None:
    record = episode(good(), WORDS, bad(), WORDS)
    assert [one.user_turn for one in record.turns] == [0, 0, 1, 1]


def test_a_missing_verdict_is_only_for_faults() -> None:
    with pytest.raises(ValueError, match="no verdict"):
        episode(good(), verdict=None)
    assert episode(good(), verdict=None, end=EndReason.HARNESS_FAULT).harness_fault


@pytest.mark.parametrize(
    ("first", "target", "right"),
    [
        (good(), [GOLD, OTHER], True),
        (good(OTHER), [GOLD], False),
        (WORDS, [GOLD], False),
        (WORDS, [], True),
        (good(), [], False),
        (broken(), [GOLD], False),
        (good(ToolCall(name="f", arguments={"x": 5})), [ToolCall(name="f", arguments={"x": 5.0})], True),
        (good(ToolCall(name="f", arguments={"x": 1})), [ToolCall(name="f", arguments={"x": True})], False),
    ],
)
def test_first_call_right(first: Turn, target: list[ToolCall], right: bool) -> None:
    assert first_call_right([first, WORDS], target) is right


def test_first_call_needs_a_target_and_no_error() -> None:
    open_task = Task(id="o", messages=TASK.messages, tools=(), gold=((GOLD,),), world=TASK.world)
    assert m.measure(m.FIRST_CALL, [episode(good(), task=open_task)]) == Rate(0, 0)
    # The gold call itself meets an unmet precondition: right as a call, but it erred.
    assert m.measure(m.FIRST_CALL, [episode(bad(GOLD)), episode(good())]) == Rate(1, 2)


def test_soft_failures_are_no_errors() -> None:
    soft = ToolOutcome(kind=OutcomeKind.SOFT_FAILURE, text="{}", error=ErrorClass.SOFT)
    assert not episode(turn([GOLD], [soft])).erred


def test_timeouts_are_errors() -> None:
    slow = ToolOutcome(kind=OutcomeKind.TIMEOUT, text="time out", error=ErrorClass.LIMIT)
    assert [event.error for event in error_events(episode(turn([GOLD], [slow])))] == [ErrorClass.LIMIT]


def test_events_of_one_episode() -> None:
    # wrong -> the same again -> a clean call -> words; then, in the next user turn, an error left standing.
    events = error_events(episode(bad(), bad(), good(), WORDS, bad(OTHER), WORDS))
    assert [(e.follow, e.repeated, e.clean_after) for e in events] == [
        (Follow.CALLED, True, 2),
        (Follow.CALLED, False, 1),
        (Follow.ANSWERED, False, None),
    ]


def test_a_limit_is_not_giving_up() -> None:
    (event,) = error_events(episode(bad(), verdict=FALSE, end=EndReason.MAX_TURNS))
    assert event.follow is Follow.CUT_OFF
    truncated = turn(finish=FinishReason.LENGTH)
    (event,) = error_events(episode(bad(), truncated, verdict=FALSE, end=EndReason.LENGTH))
    assert event.follow is Follow.CUT_OFF


def test_a_malformed_block_can_be_repeated() -> None:
    same, different = (error_events(episode(broken("{"), broken(block)))[0] for block in ("{", "{{"))
    assert (same.error, same.repeated, different.repeated) == (ErrorClass.FORMAT, True, False)


def test_only_failed_calls_can_be_repeated() -> None:
    # Two calls at once: ls worked, cd failed. Doing ls again is no repeat of a failed call.
    both = turn([OTHER, WRONG], [SUCCESS, error()])
    assert not error_events(episode(both, good(OTHER)))[0].repeated
    assert error_events(episode(both, good(WRONG)))[0].repeated


def test_a_changed_type_is_no_repeat() -> None:
    whole, real = (ToolCall(name="f", arguments={"x": x}) for x in (5, 5.0))
    assert not error_events(episode(bad(whole), bad(real)))[0].repeated


def test_faults_are_counted_apart() -> None:
    fault = turn([GOLD], [ToolOutcome(kind=OutcomeKind.HARNESS_FAULT, text="")])
    records = [episode(good()), episode(bad(), fault, verdict=FALSE)]
    assert m.harness_faults(records) == Rate(1, 2)
    assert m.measure(m.FINAL, records) == Rate(1, 1)
    assert m.measure(m.NCR, records) == Rate(0, 0)
    assert m.repeats_by_class(records) == {}


def values(records: Sequence[EpisodeRecord], *names: m.Metric) -> list[Rate]:
    return [m.measure(metric, records) for metric in names]


def test_always_recover() -> None:
    # 6 clean episodes, 4 with one error each, mended by the very next call.
    records = [episode(good(), WORDS)] * 6 + [episode(bad(), good(), WORDS)] * 4
    assert values(records, m.FINAL, m.FIRST_ATTEMPT, m.ERRED, m.ERR, m.CLEAN) == [
        Rate(10, 10),
        Rate(6, 10),
        Rate(4, 10),
        Rate(4, 4),
        Rate(6, 6),
    ]
    assert values(records, m.NCR, m.REPEAT, m.ABANDON, m.GAVE_UP) == [Rate(4, 4), Rate(0, 4), Rate(0, 4), Rate(0, 10)]
    assert m.steps_to_recover(records).value == 1.0
    # Solved episodes waste 0 calls six times and 1 call four times: mean 0.4.
    assert m.excess_calls(records).value == pytest.approx(0.4)


def test_always_give_up() -> None:
    records = [episode(good(), WORDS)] * 6 + [episode(bad(), WORDS, verdict=FALSE)] * 4
    assert values(records, m.FINAL, m.ERR, m.NCR, m.REPEAT, m.ABANDON, m.GAVE_UP, m.FALSE_SUCCESS) == [
        Rate(6, 10),
        Rate(0, 4),
        Rate(0, 4),
        Rate(0, 0),
        Rate(4, 4),
        Rate(4, 10),
        Rate(0, 10),
    ]


def recover_or_repeat(rng: np.random.Generator, share: float, limit: int = 21) -> EpisodeRecord:
    """After each error the right call with probability `share`, else the same wrong call, at most `limit` steps."""
    turns = [bad()]
    while len(turns) < limit:
        if rng.random() < share:
            return episode(*turns, good(), WORDS)
        turns.append(bad())
    return episode(*turns, verdict=FALSE, end=EndReason.MAX_TURNS)


def test_recover_half_repeat_half() -> None:
    # Each error is followed by the right call with p = 1/2, so NCR = RIR = 1/2 up to the cut-off, which an episode
    # reaches with 2**-20. Errors until the first right call: geometric with mean 2. ERR = 1 - 2**-20.
    rng = np.random.default_rng(0)
    records = [recover_or_repeat(rng, 0.5) for _ in range(1000)]
    ncr, repeat, err = values(records, m.NCR, m.REPEAT, m.ERR)
    # Standard error of NCR over about 2,000 errors: 0.011; 4 of them are allowed.
    assert ncr.value == pytest.approx(0.5, abs=0.045)
    assert repeat.successes + ncr.successes == repeat.total
    assert ncr.total / len(records) == pytest.approx(2.0, abs=4 * math.sqrt(2 / 1000))
    assert err == Rate(1000, 1000)


def test_repeat_and_give_up_look_alike_to_err_alone() -> None:
    repeats = [episode(bad(), bad(), bad(), verdict=FALSE, end=EndReason.MAX_TURNS)] * 3 + [episode(bad(), good())]
    quits = [episode(bad(), WORDS, verdict=FALSE)] * 3 + [episode(bad(), good())]
    assert m.measure(m.ERR, repeats) == m.measure(m.ERR, quits) == Rate(1, 4)
    # Repeats: 3 x 3 errors + 1; two of each three are followed by a repeat, the last is cut off; one is mended.
    assert values(repeats, m.REPEAT, m.ABANDON, m.CUT_OFF) == [Rate(6, 7), Rate(0, 10), Rate(3, 10)]
    assert values(quits, m.REPEAT, m.ABANDON, m.CUT_OFF) == [Rate(0, 1), Rate(3, 4), Rate(0, 4)]


def test_false_success_is_not_giving_up() -> None:
    records = [episode(good(OTHER), WORDS, verdict=FALSE), episode(bad(), good(OTHER), WORDS, verdict=FALSE)]
    assert values(records, m.FALSE_SUCCESS, m.GAVE_UP, m.CUT_SHORT) == [Rate(2, 2), Rate(0, 2), Rate(0, 2)]


def test_recovery_within_k_steps() -> None:
    # Errors at steps 1, 2, 3, clean at 4: distances 3, 2, 1.
    records = [episode(bad(), bad(), bad(), good())]
    assert values(records, *(m.recovered_within(k) for k in (1, 2, 3))) == [Rate(1, 3), Rate(2, 3), Rate(3, 3)]
    assert m.steps_to_recover(records).value == 2.0


def test_repeats_by_class() -> None:
    unknown = ToolCall(name="chdir", arguments={})
    records = [
        episode(bad(unknown, ErrorClass.UNKNOWN_TOOL), good()),
        episode(bad(GOLD, ErrorClass.PRECONDITION), bad(GOLD, ErrorClass.PRECONDITION), good(OTHER)),
    ]
    assert m.repeats_by_class(records) == {ErrorClass.UNKNOWN_TOOL: Rate(0, 1), ErrorClass.PRECONDITION: Rate(1, 2)}


def probe_record(*turns: Turn, right: bool) -> EpisodeRecord:
    probe = Probe(kind="other_string", error=ErrorClass.NOT_FOUND, call=WRONG, next_call_right=right)
    return episode(*turns, probe=probe, verdict=RIGHT if right else FALSE)


def test_probes() -> None:
    records = [
        probe_record(good(), WORDS, right=True),
        probe_record(bad(), WORDS, right=False),
        probe_record(WORDS, right=False),
    ]
    assert values(records, m.PROBE, m.PROBE_REPEAT, m.PROBE_ABANDON) == [Rate(1, 3), Rate(1, 2), Rate(1, 3)]
    # The policy's own error counts beside the injected ones: injected 1 of 2 repeated, own error not followed.
    assert m.repeats_by_class(records) == {ErrorClass.NOT_FOUND: Rate(1, 2)}
    assert m.by_slice(m.PROBE, records, lambda record: record.end) == {"answered": Rate(1, 3)}
    assert probe_event(episode(good())) is None
    assert m.measure(m.PROBE, [episode(good())]) == Rate(0, 0)


moves = st.sampled_from([bad(), bad(OTHER), good(), broken(), WORDS])
episodes = st.builds(
    lambda turns, ok, end: episode(*turns, verdict=RIGHT if ok else FALSE, end=end),
    st.lists(moves, max_size=6),
    st.booleans(),
    st.sampled_from([EndReason.ANSWERED, EndReason.MAX_TURNS, EndReason.LENGTH]),
)


@given(st.lists(episodes, max_size=5))
def test_the_two_identities(records: list[EpisodeRecord]) -> None:
    rate = {metric.name: m.measure(metric, records) for metric in m.EPISODE_METRICS}
    assert rate["final"].successes == rate["err"].successes + rate["clean"].successes
    assert rate["erred"].successes == rate["err"].total
    ends = ("final", "false_success", "gave_up", "cut_short")
    assert sum(rate[name].successes for name in ends) == len(records)


@given(st.lists(episodes, max_size=5))
def test_metrics_are_pure_functions_of_the_file(records: list[EpisodeRecord]) -> None:
    again = [from_line(to_line(record)) for record in records]
    for metric in (*m.EPISODE_METRICS, *m.PROBE_METRICS):
        assert m.measure(metric, again) == m.measure(metric, records)


@given(st.lists(episodes, max_size=5))
def test_what_follows_an_error_is_exactly_one_thing(records: list[EpisodeRecord]) -> None:
    abandon, cut, repeat = values(records, m.ABANDON, m.CUT_OFF, m.REPEAT)
    assert abandon.successes + cut.successes + repeat.total == abandon.total


def group(name: str, correct: str, rewards: Sequence[float], parent: str | None = None) -> GroupOutcome:
    return GroupOutcome(
        group=name, parent=parent, rewards=tuple(rewards), correct=tuple(mark == "+" for mark in correct)
    )


def test_the_account_of_groups() -> None:
    account = account_groups(
        [
            group("a", "--", [1, 1]),  # no signal; its fission group finds a success: rescued
            group("b", "--", [1, 2]),  # all fail, but partial credit gives signal; its fission group fails too
            group("c", "--", [1, 1]),  # no signal, never fissioned
            group("d", "++", [4, 4]),
            group("e", "+-", [4, 1]),  # mixed, fissioned with success: not all failed, so not "rescued"
            group("a1", "+-", [4, 1], parent="a"),
            group("b1", "--", [2, 2], parent="b"),
            group("e1", "++", [4, 4], parent="e"),
        ]
    )
    assert (account.all_fail, account.mixed, account.all_right) == (Rate(3, 5), Rate(1, 5), Rate(1, 5))
    assert account.has_signal == Rate(2, 5)
    assert (account.fissioned, account.rescued) == (Rate(2, 3), Rate(1, 3))
    assert (account.fission_has_signal, account.fission_success) == (Rate(1, 3), Rate(2, 3))


def test_a_grandchild_rescues_the_first_group() -> None:
    line = [group("a", "-", [0]), group("b", "-", [0], parent="a"), group("c", "+", [1], parent="b")]
    assert account_groups(line).rescued == Rate(1, 1)


def test_equal_rewards_up_to_rounding_are_no_signal() -> None:
    assert not group("a", "--", [0.1 + 0.2, 0.3]).has_signal


def test_group_outcome_reads_a_trace() -> None:
    right = {"reward": {"total": 2, "terms": {}}, "success": True, "failure": None, "end": "horizon"}
    wrong = {**right, "success": False, "failure": {"error": "E6", "turn": 0}}
    mended = {**wrong, "success": True}
    invalid = {**wrong, "reward": None, "end": "harness_fault"}
    trace = {"group": 7, "kind": "fission", "parent": {"group": 3, "trajectory": 0, "turn": 0}, "extra": 1}
    outcome = group_outcome({**trace, "trajectories": [right, wrong, mended, invalid]})
    assert outcome == GroupOutcome(group="7", parent="3", rewards=(2.0, 2.0, 2.0), correct=(True, False, True))
    assert group_outcome({**trace, "trajectories": [invalid]}) is None
