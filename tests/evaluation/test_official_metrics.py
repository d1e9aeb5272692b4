"""Accuracy and recovery on a benchmark: scripted agents whose metrics are known, and identities that always hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from bfcl_agents import ScriptedAgent, by_scenario, giving_up, gold, stumbling, told_apart
from episodes import CALL, OTHER, episode, message
from hypothesis import given
from hypothesis import strategies as st

from fission_grpo.environments.bfcl.entries import bfcl_entries
from fission_grpo.evaluation import metrics as r
from fission_grpo.evaluation.bfcl.records import as_episode
from fission_grpo.evaluation.events import Fate, Follow, error_events
from fission_grpo.evaluation.interleave import interleave
from fission_grpo.evaluation.metrics import measure
from fission_grpo.evaluation.paired import category_of, estimate
from fission_grpo.evaluation.protocols.bfcl import ToolRelease, play_entry
from fission_grpo.evaluation.records import EpisodeRecord, from_line, to_line
from fission_grpo.evaluation.statistics import Rate
from fission_grpo.types import (
    EndReason,
    ErrorClass,
)


def rates(records: Sequence[EpisodeRecord], error: ErrorClass | None = None) -> dict[str, Rate]:
    return {one.name: measure(replace(one, error=error), records) for one in r.BENCHMARK_METRICS}


def test_scripted_agents_on_the_official_entries() -> None:
    # A entries are gold, B stumble once, C twice with the same call, D give up. Errors: B + 2 C + D, all of class E1,
    # all in first turns.
    entries = told_apart(bfcl_entries("base"))
    scripts = Counter(int(entry.meta["scenario"]) % 4 for entry in entries)
    a, b, c, d = (scripts[k] for k in range(4))
    assert min(a, b, c, d) > 40
    agent = ScriptedAgent(entries, by_scenario(gold, stumbling(1), stumbling(2), giving_up))
    episodes = (play_entry(entry, release=ToolRelease.TOOLS) for entry in entries)
    records = [as_episode(record) for record in interleave(episodes, agent, purpose="test", seed=0)]
    rate = rates(records)
    assert rate["accuracy"] == Rate(a + b + c, a + b + c + d)  # who gives up leaves its first turn without a right call
    assert (rate["erred"], rate["err"]) == (Rate(b + c + d, a + b + c + d), Rate(b + c, b + c + d))
    assert rate["clean_accuracy"] == Rate(a, a)
    assert rate["err_turn"] == rate["err_turn|clean"] == Rate(b + c, b + c + d)  # a first turn has nothing before it
    # Mended at once: the error of B and the second of C; the first of C takes two steps.
    errors = b + 2 * c + d
    assert (rate["ncr@1"], rate["ncr@3"]) == (Rate(b + c, errors), Rate(b + 2 * c, errors))
    assert rate["repeat"] == Rate(c, b + 2 * c)  # a step follows all errors but those of D
    assert (rate["abandon"], rate["stopped"]) == (Rate(d, errors), Rate(0, errors))
    assert rate["false_success"] == Rate(0, len(records))
    assert rates(records, ErrorClass.UNKNOWN_TOOL)["err"] == rate["err"]
    assert rates(records, ErrorClass.NOT_FOUND)["err"] == Rate(0, 0)
    # One step for B + C errors and two for C; five tokens a message.
    steps = (b + c + 2 * c) / (b + 2 * c)
    assert r.steps_to_recover(records).value == pytest.approx(steps)
    assert r.tokens_to_recover(records).value == pytest.approx(5 * steps)
    ends = {Fate.RECOVERED: b + c, Fate.REPEATED: c, Fate.OTHER_ERROR: 0, Fate.GAVE_UP: d, Fate.CUT_OFF: 0}
    assert r.fates(records) == {ErrorClass.UNKNOWN_TOOL: ends}


def test_turns_are_judged_one_by_one() -> None:
    # Turn 0: clean, right. Turn 1: erred, wrong. Turn 2: not judged. Turn 3: erred, right, but after a wrong turn.
    one = episode(
        *(message(0, CALL), message(1, CALL, ErrorClass.NOT_FOUND), message(1)),
        *(message(2, CALL, ErrorClass.NOT_FOUND), message(3, CALL, ErrorClass.CONFLICT), message(3, OTHER)),
        ok=False,
        turn_ok=(True, False, None, True),
    )
    rate = rates([one])
    assert (rate["one_shot"], rate["err_turn"], rate["err_turn|clean"]) == (Rate(1, 1), Rate(1, 2), Rate(0, 1))
    assert rates([one], ErrorClass.CONFLICT)["err_turn"] == Rate(1, 1)
    assert rates([one], ErrorClass.CONFLICT)["err_turn|clean"] == Rate(0, 0)


def test_turns_that_others_played_do_not_count() -> None:
    # A probe in user turn 1: the gold dialogue played turn 0.
    probe = episode(message(1, CALL), turn_ok=(True, True))
    assert rates([probe])["one_shot"] == Rate(1, 1)
    assert rates([episode(message(0, CALL))])["one_shot"] == Rate(0, 0)  # not known


def test_the_official_verdict_does_not_ask_how_an_episode_ended() -> None:
    forgiven = episode(message(0, CALL), end=EndReason.MAX_TURNS)
    assert (forgiven.valid, forgiven.ok) == (True, False)
    assert rates([forgiven])["accuracy"] == Rate(1, 1)


def test_a_malformed_message_that_ends_the_turn_is_no_giving_up() -> None:
    unheard = episode(message(0, broken=True), message(1), ok=False)
    assert [event.follow for event in error_events(unheard)] == [Follow.UNHEARD]
    rate = rates([unheard])
    assert (rate["abandon"], rate["stopped"], rate["ncr@1"]) == (Rate(0, 1), Rate(1, 1), Rate(0, 1))


def test_false_success() -> None:
    believes = episode(message(0, CALL), message(0), ok=False)
    stands = episode(message(0, CALL, ErrorClass.NOT_FOUND), message(0), ok=False)
    mended = episode(message(0, CALL, ErrorClass.NOT_FOUND), message(0, OTHER), message(0), ok=False)
    assert rates([believes, stands, mended])["false_success"] == Rate(2, 3)
    assert rates([believes, stands, mended], ErrorClass.NOT_FOUND)["false_success"] == Rate(1, 2)


def test_tokens_that_nobody_counted_are_no_zeros() -> None:
    told = episode(message(0, CALL, ErrorClass.NOT_FOUND), message(0, OTHER, tokens=9))
    untold = episode(message(0, CALL, ErrorClass.NOT_FOUND), message(0, OTHER, tokens=0))
    assert (r.tokens_to_recover([told, untold]).count, r.tokens_to_recover([told, untold]).value) == (1, 9)


def test_faults_count_nowhere() -> None:
    fault = episode(message(0, CALL, ErrorClass.NOT_FOUND), end=EndReason.HARNESS_FAULT)
    assert all(rate == Rate(0, 0) for rate in rates([fault]).values())
    assert r.fates([fault]) == {}
    assert r.error_classes([fault]) == []


def test_overall_is_the_mean_of_the_categories() -> None:
    # Base 1 of 1, Miss Func 0 of 3: pooled 25 %, officially 50 %.
    records = [episode(category="base"), *(episode(scenario=i, ok=False, category="miss_func") for i in range(3))]
    assert estimate(r.ACCURACY, records).value == pytest.approx(0.25)
    assert estimate(r.ACCURACY, records, stratum=category_of).value == pytest.approx(0.5)


classes = st.sampled_from([None, ErrorClass.NOT_FOUND, ErrorClass.UNKNOWN_TOOL])
messages = st.builds(
    lambda turn, call, error, broken: message(turn, None if broken else call, error if call else None, broken=broken),
    st.integers(0, 2),
    st.sampled_from([CALL, OTHER, None]),
    classes,
    st.booleans(),
)
episodes = st.builds(
    lambda turns, ok, end, judged: episode(
        *sorted(turns, key=lambda one: one.user_turn), ok=ok, end=end, turn_ok=tuple(judged)
    ),
    st.lists(messages, max_size=6),
    st.booleans(),
    st.sampled_from([EndReason.ANSWERED, EndReason.MAX_TURNS, EndReason.HARNESS_FAULT]),
    st.lists(st.sampled_from([True, False, None]), max_size=3),
)


@given(st.lists(episodes, max_size=5))
def test_identities(records: list[EpisodeRecord]) -> None:
    rate = rates(records)
    # accuracy = P(error) ERR + (1 - P(error)) clean, in counts.
    assert rate["accuracy"].successes == rate["err"].successes + rate["clean_accuracy"].successes
    assert rate["erred"].successes == rate["err"].total
    assert rate["accuracy"].total == rate["err"].total + rate["clean_accuracy"].total
    # Every error is followed by exactly one thing.
    assert rate["repeat"].total + rate["abandon"].successes + rate["stopped"].successes == rate["ncr@1"].total
    assert rate["ncr@1"].successes <= rate["ncr@3"].successes
    assert rate["err_turn|clean"].total <= rate["err_turn"].total
    # A turn has an error or has none.
    judged = [turn for record in records if not record.harness_fault for turn in r.played_turns(record)]
    assert len(judged) == rate["one_shot"].total + rate["err_turn"].total
    assert sum(turn.ok for turn in judged) == rate["one_shot"].successes + rate["err_turn"].successes


@given(st.lists(episodes, max_size=5))
def test_classes_and_fates_divide_the_errors(records: list[EpisodeRecord]) -> None:
    everything, by_class = rates(records), [rates(records, error) for error in r.error_classes(records)]
    for name in ("ncr@1", "repeat", "abandon", "stopped"):
        assert sum((rate[name] for rate in by_class), start=Rate(0, 0)) == everything[name]
    ends = list(r.fates(records).values())
    assert sum(sum(row.values()) for row in ends) == everything["ncr@1"].total
    assert sum(row[Fate.RECOVERED] for row in ends) == everything["ncr@1"].successes
    assert sum(row[Fate.GAVE_UP] for row in ends) == everything["abandon"].successes


@given(episodes)
def test_a_record_survives_its_line(record: EpisodeRecord) -> None:
    assert from_line(to_line(record)) == record
    older = replace(record, turn_ok=None)
    assert from_line(to_line(older).replace(',"turn_ok":null', "")) == older
