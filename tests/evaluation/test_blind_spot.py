"""Injected errors on official entries, played by agents: same error, same world, known metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from bfcl_agents import ScriptedAgent, told_apart

from fission_grpo.agents.base import Agent, AgentFault, Answer, Conversation, FaultKind
from fission_grpo.chat.parse import assistant_message
from fission_grpo.environments.bfcl.entries import bfcl_entries
from fission_grpo.environments.bfcl.environment import BfclEnvironment
from fission_grpo.evaluation.blind_spot import Speaker, bfcl_probe, blind_spot, blind_spot_pairs, foreign
from fission_grpo.evaluation.events import probe_event
from fission_grpo.evaluation.interleave import interleave
from fission_grpo.evaluation.metrics import FINAL, PROBE, measure
from fission_grpo.evaluation.protocols.ours import play_task
from fission_grpo.evaluation.records import EpisodeRecord, probed
from fission_grpo.evaluation.statistics import Rate
from fission_grpo.report.contrasts import blind_spot_markdown
from fission_grpo.tasks.probe import ProbeItem, probe_items
from fission_grpo.types import EndReason, ErrorClass, ParseFailure, ParseFailureKind, Task, ToolCall


@pytest.fixture(scope="module")
def items() -> list[ProbeItem]:
    return bfcl_probe()


def test_every_base_entry_gets_one_error(items: list[ProbeItem]) -> None:
    assert len(items) == 200
    classes = Counter(item.error for item in items)
    # Six classes share 200 entries; conflicts are rare, and our own caps are no question.
    assert all(classes[ErrorClass(f"E{k}")] >= 30 for k in range(1, 7))
    assert classes[ErrorClass.LIMIT] == 0
    assert sum(len([m for m in item.task.messages if m["role"] == "user"]) > 1 for item in items) > 100


def test_the_error_stands_behind_the_gold_prefix(items: list[ProbeItem]) -> None:
    environment = BfclEnvironment()
    for item in items[:40]:
        *_, call, error = item.task.messages
        assert (call["tool_calls"][0]["function"]["name"], error["content"]) == (item.wrong.name, item.text)
        environment.reset(item.task)
        turn = len(item.task.gold) - 1
        done = item.task.gold[turn].index(item.task.target[0])
        assert not any(environment.execute(call).is_error for call in item.task.gold[turn][done:])
        assert environment.score().ok  # the turns so far, and nothing behind them


def continuing(item: ProbeItem, *, knows: bool) -> list[Answer]:
    """The rest of the turn: gold from the target on, or the wrong call once more, then words."""
    calls = item.task.gold[-1]
    rest = calls[calls.index(item.task.target[0]) :] if knows else (item.wrong,)
    made = [Answer(text="call", message=assistant_message([call]), calls=(call,)) for call in rest]
    return [*made, Answer(text="Done.", message=assistant_message([], "Done."), calls=())]


class PairAgent:
    """Mends an error if it is another's or if `sees_own`; otherwise it repeats it."""

    name, width = "pairs", 50

    def __init__(self, items: Sequence[ProbeItem], *, sees_own: bool) -> None:
        self._starts = {str(item.task.messages): item for item in items}
        self._sees_own = sees_own

    def answer(self, dialogues: Sequence[Conversation], *, seed: int) -> list[Answer | AgentFault]:
        return [self._answer(dialogue) for dialogue in dialogues]

    def _answer(self, dialogue: Conversation) -> Answer:
        for length in range(len(dialogue.messages), 0, -1):
            item = self._starts.get(str(dialogue.messages[:length]))
            if item is not None:
                knows = self._sees_own or item.task.messages[-1]["role"] == "user"
                said = sum(message["role"] == "assistant" for message in dialogue.messages[length:])
                return continuing(item, knows=knows)[said]
        raise AssertionError("an unknown dialogue")


def play_tasks(tasks: Sequence[Task], agent: Agent) -> list[EpisodeRecord]:
    """One record for each task, in order."""
    records = interleave((play_task(task, BfclEnvironment()) for task in tasks), agent, purpose="tasks", seed=0)
    by_task = {record.task: record for record in records}
    return [by_task[task.id] for task in tasks]


def play(items: Sequence[ProbeItem], *, sees_own: bool) -> list[EpisodeRecord]:
    agent = PairAgent(items, sees_own=sees_own)
    records = play_tasks([item.task for item in items], agent)
    return [probed(item, record) for item, record in zip(items, records, strict=True)]


def test_a_policy_that_mends_everything(items: list[ProbeItem]) -> None:
    records = play(items[:60], sees_own=True)
    assert measure(PROBE, records) == measure(FINAL, records) == Rate(60, 60)


def test_the_blind_spot_by_hand() -> None:
    pairs = blind_spot_pairs(bfcl_entries("base")[:40], 0)
    own, others = ([getattr(one, side) for one in pairs] for side in ("own", "foreign"))
    assert len(pairs) == 40
    blind = blind_spot(play(own, sees_own=False), play(others, sees_own=False))
    # It repeats all of its own errors and mends all of the others': gap 100 points, relative blind spot 1.
    assert (blind.gap.before.value, blind.gap.after.value, blind.relative) == (0.0, 1.0, 1.0)
    assert (blind.gap.difference, blind.paired.entries, blind.paired.excluded) == (1.0, 40, 0)
    assert [one.before.value for one in blind.contrasts] == [0.0, 0.0, 1.0, 0.0]
    assert "Relative blind spot (1 - own / another's): 100.0 %" in blind_spot_markdown(blind)
    sees = blind_spot(play(own[:10], sees_own=True), play(others[:10], sees_own=True))
    assert (sees.gap.difference, sees.gap.change.p_value, sees.relative) == (0.0, 1.0, 0.0)


def test_both_sides_of_a_pair_hold_the_same_words() -> None:
    for one in blind_spot_pairs(bfcl_entries("base")[:30], 0):
        *own, call, error = one.own.task.messages
        *before, request = one.foreign.task.messages
        assert own == [*before, {**request, "content": own[-1]["content"]}]
        assert str(request["content"]).startswith(str(own[-1]["content"]))
        assert error["content"] in request["content"]
        assert f'"name": "{call["tool_calls"][0]["function"]["name"]}"' in request["content"]
        assert one.own.task.target == one.foreign.task.target
        assert one.own.task.id != one.foreign.task.id
        assert one.own.task.meta["pair"] == one.foreign.task.meta["pair"]
        assert one.own.task.id.endswith(Speaker.OWN)


def test_an_error_in_the_middle_of_a_turn_cannot_be_anothers(items: list[ProbeItem]) -> None:
    late = next(item for item in items if item.task.messages[-3]["role"] == "tool")
    with pytest.raises(ValueError, match="expected a user's"):
        foreign(late)


def test_repeating_anothers_call_is_a_repeat() -> None:
    item = blind_spot_pairs(bfcl_entries("base")[:5], 0)[0].foreign
    stubborn = ScriptedAgent([entry_of(item)], lambda entry, turn, replies: None if replies else item.wrong)
    (record,) = play_tasks([item.task], stubborn)
    event = probe_event(probed(item, record))
    assert event is not None
    assert event.repeated
    assert event.error is item.error


def entry_of(item: ProbeItem) -> Task:
    """The official entry that an item was made of."""
    return next(entry for entry in bfcl_entries("base") if item.task.id.startswith(f"{entry.id}/"))


def test_the_player_plays_whole_entries_too() -> None:
    entries = told_apart(bfcl_entries("base"))[:12]
    agent = ScriptedAgent(entries, lambda entry, turn, replies: ([*entry.gold[turn], None])[replies])
    records = play_tasks(entries, agent)
    assert [record.task for record in records] == [entry.id for entry in entries]
    assert all(record.ok for record in records)


class Refusing:
    """One malformed message, and then a fault."""

    name, width = "refusing", 2

    def __init__(self, kind: FaultKind) -> None:
        self._kind = kind

    def answer(self, dialogues: Sequence[Conversation], *, seed: int) -> list[Answer | AgentFault]:
        return [self._answer(dialogue) for dialogue in dialogues]

    def _answer(self, dialogue: Conversation) -> Answer | AgentFault:
        if dialogue.messages[-1]["role"] == "tool":
            assert str(dialogue.messages[-1]["content"]).startswith("error: malformed tool call")
            return AgentFault(reason="gone", kind=self._kind)
        broken = ParseFailure(kind=ParseFailureKind.JSON, start=0, text="{", detail="not JSON")
        return Answer(text="{", message={"role": "assistant", "content": "{"}, calls=(), failures=(broken,))


@pytest.mark.parametrize(
    ("kind", "end"), [(FaultKind.MACHINERY, EndReason.HARNESS_FAULT), (FaultKind.DIALOGUE, EndReason.CONTEXT)]
)
def test_faults_are_told_from_the_models_doing(kind: FaultKind, end: EndReason) -> None:
    (record,) = play_tasks(bfcl_entries("base")[:1], Refusing(kind))
    assert (record.end, record.harness_fault) == (end, kind is FaultKind.MACHINERY)
    assert record.turns[0].error is ErrorClass.FORMAT


def test_probes_of_one_seed_are_the_same_for_every_model() -> None:
    entries: Sequence[Task] = bfcl_entries("base")[:20]
    first, again, other = (list(probe_items(entries, seed, "first_call")) for seed in (0, 0, 1))
    assert first == again != other
    assert all(item.task.messages[-3]["role"] == "user" for item in first)
    assert isinstance(first[0].wrong, ToolCall)
