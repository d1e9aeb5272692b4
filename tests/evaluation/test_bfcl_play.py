"""The protocol, the run that can be stopped, the records and the scores, under scripts whose results are known."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle, product
from pathlib import Path

import pytest

pytest.importorskip("bfcl_eval", reason="the official benchmark is not installed")

from bfcl_play import (
    DONE,
    ENTRIES,
    Player,
    Script,
    always_wrong,
    gold,
    gold_at_once,
    misspelt,
    official,
    play_texts,
    recover_half,
    recovers,
    run_entries,
    say,
)
from work import entered

from fission_grpo.agents.base import AgentFault, Answer, Conversation, FaultKind
from fission_grpo.agents.choice import AgentChoice
from fission_grpo.agents.formats import PromptMode
from fission_grpo.agents.qwen_fc import Strictness, read_qwen_fc
from fission_grpo.chat.parse import assistant_message
from fission_grpo.commands.bfcl import BfclSettings, evaluate_bfcl
from fission_grpo.environments.bfcl.entries import NEW_FUNCTIONS_TEXT, BfclCategory, bfcl_entries
from fission_grpo.errors import ConfigError, DataError, PolicyError
from fission_grpo.evaluation.bfcl.export import export
from fission_grpo.evaluation.bfcl.records import (
    BfclEnd,
    BfclRecord,
    as_episode,
    bfcl_from_line,
    bfcl_to_line,
    read_bfcl,
)
from fission_grpo.evaluation.bfcl.score import judge_again, score_entries
from fission_grpo.evaluation.bfcl.world import FORCE_TERMINATED, INFERENCE_ERROR
from fission_grpo.evaluation.interleave import interleave
from fission_grpo.evaluation.metrics import ABANDON, ERR, ERRED, NCR, REPEAT, measure
from fission_grpo.evaluation.protocols.bfcl import ToolRelease, play_entry
from fission_grpo.types import EndReason, ErrorClass, FinishReason, Task, ToolCall

pytestmark = pytest.mark.early

BASE = bfcl_entries(BfclCategory.BASE)
MISS_FUNC = bfcl_entries(BfclCategory.MISS_FUNC)


def played(script: Script, category: BfclCategory) -> list[BfclRecord]:
    entries = bfcl_entries(category)
    agent = Player(script, entries, width=64)
    episodes = (play_entry(entry, release=ToolRelease.TEXT) for entry in entries)
    return list(interleave(episodes, agent, purpose="bfcl", seed=0))


@pytest.fixture(scope="module")
def perfect() -> list[BfclRecord]:
    return [record for category in BfclCategory for record in played(gold_at_once, category)]


def test_gold_is_right_everywhere(perfect: list[BfclRecord]) -> None:
    found = score_entries(perfect)
    assert found.overall == 1.0
    assert found.complete
    assert not found.missing
    assert {len(record.turns) for record in perfect} == {len(entry.gold) for entry in ENTRIES}
    assert all(ok is not False for record in perfect for ok in record.turn_ok)


def test_wrong_names_are_wrong_everywhere() -> None:
    records = played(always_wrong, BfclCategory.MISS_PARAM)
    assert score_entries(records).categories[BfclCategory.MISS_PARAM].right == 0
    errors = {outcome.error for r in records for steps in r.turns for step in steps for outcome in step.outcomes}
    assert errors == {ErrorClass.UNKNOWN_TOOL}
    assert all(ok is not True for record in records for ok in record.turn_ok)


def test_recovering_half_of_the_time_has_the_metrics_it_must_have() -> None:
    records = played(recover_half, BfclCategory.BASE)
    episodes = list(map(as_episode, records))
    right = sum(map(recovers, BASE))
    assert 50 < right < 150
    assert score_entries(records).categories[BfclCategory.BASE].right == right
    assert (measure(ERRED, episodes).successes, measure(ERRED, episodes).total) == (200, 200)
    for metric in (ERR, NCR):
        assert (measure(metric, episodes).successes, measure(metric, episodes).total) == (right, 200)
    assert (measure(ABANDON, episodes).successes, measure(ABANDON, episodes).total) == (200 - right, 200)
    assert measure(REPEAT, episodes).successes == 0


def test_turns_are_judged_after_a_failed_one_too() -> None:
    entry = next(entry for entry in BASE if entry.id == "multi_turn_base_1")
    texts = [DONE, *(text for calls in entry.gold[1:] for text in (*map(say, calls), DONE))]
    record, _ = play_texts(entry, texts)
    assert record.verdict is not None
    assert record.verdict.detail.startswith("turn 0")
    assert record.turn_ok[0] is False
    assert True in record.turn_ok


def test_twenty_steps_are_allowed_and_twenty_one_end_the_entry() -> None:
    entry = BASE[0]
    wrong = say(misspelt(entry.gold[0][0]))
    record, _ = play_texts(entry, [wrong] * 20)
    assert (record.end, len(record.turns[0])) == (BfclEnd.COMPLETE, 21)
    record, _ = play_texts(entry, [wrong] * 30)
    assert (record.end, len(record.turns), len(record.turns[0])) == (BfclEnd.FORCE_QUIT, 1, 21)
    assert record.force_quit
    assert record.verdict is not None
    assert record.verdict.error_type == FORCE_TERMINATED
    assert as_episode(record).end is EndReason.MAX_TURNS


def test_functions_come_back_in_text_or_among_the_tools() -> None:
    entry = next(entry for entry in MISS_FUNC if len(entry.meta["missed_function"].get("1", ())) == 1)
    (name,) = entry.meta["missed_function"]["1"]
    shown = {way: dialogues(entry, way) for way in ToolRelease}
    for way, dialogue in shown.items():
        assert name not in names(dialogue[0]), way
    assert names(shown[ToolRelease.TOOLS][1]) == [*names(shown[ToolRelease.TOOLS][0]), name]
    assert shown[ToolRelease.TOOLS][1].messages[-1]["content"] == NEW_FUNCTIONS_TEXT
    assert names(shown[ToolRelease.TEXT][1]) == names(shown[ToolRelease.TEXT][0])
    text = shown[ToolRelease.TEXT][1].messages[-1]["content"]
    assert text.startswith(f"[{{'name': '{name}', ")
    assert text.endswith(f"]\n{NEW_FUNCTIONS_TEXT}")


def dialogues(entry: Task, release: ToolRelease) -> list[Conversation]:
    """What a model is shown that never calls anything."""
    episode = play_entry(entry, release=release)
    shown = [next(episode)]
    try:
        while True:
            shown.append(episode.send(read_qwen_fc(DONE)))
    except StopIteration:
        return shown


def names(dialogue: Conversation) -> list[str]:
    return [tool["function"]["name"] for tool in dialogue.tools]


def test_a_withheld_function_runs_when_it_is_guessed() -> None:
    entry = next(entry for entry in MISS_FUNC if len(entry.meta["missed_function"].get("1", ())) == 1)
    (name,) = entry.meta["missed_function"]["1"]
    call = next(call for calls in entry.gold for call in calls if call.name == name)
    record, _ = play_texts(entry, [say(call)])
    assert record.turns[0][0].outcomes[0].error is not ErrorClass.UNKNOWN_TOOL


def test_results_answer_the_ids_that_the_model_gave() -> None:
    calls = (ToolCall(name="ls", arguments={}), ToolCall(name="pwd", arguments={}))
    message = dict(assistant_message(calls))
    message["tool_calls"] = [{**call, "id": f"server-{place}"} for place, call in enumerate(message["tool_calls"])]
    episode = play_entry(BASE[0], release=ToolRelease.TOOLS)
    next(episode)
    dialogue = episode.send(Answer(text="", message=message, calls=calls))
    assert [reply["tool_call_id"] for reply in dialogue.messages[2:]] == ["server-0", "server-1"]
    assert dialogue.messages[1] is message


@dataclass
class Stumbling:
    """An agent that answers some dialogues with a fault and stops working after some batches."""

    player: Player
    fault_at: dict[str, FaultKind] = field(default_factory=dict)
    """First user message -> the fault that meets it in the second batch or later."""
    stop_after: int = 1 << 30
    stop: BaseException = field(default_factory=KeyboardInterrupt)
    name: str = "stumbling"
    width: int = 5

    def answer(self, dialogues: Sequence[Conversation], *, seed: int) -> list[Answer | AgentFault]:
        if len(self.player.asked) >= self.stop_after:
            raise self.stop
        self.player.asked.append(len(dialogues))
        return list(map(self._answer, dialogues))

    def _answer(self, dialogue: Conversation) -> Answer | AgentFault:
        kind = self.fault_at.get(dialogue.messages[0]["content"])
        if kind is None or len(dialogue.messages) == 1:
            return self.player.reply(dialogue)
        return AgentFault(reason="no answer", kind=kind)


def test_faults_are_kept_apart_and_played_again(tmp_path: Path) -> None:
    entries = BASE[:12]
    faults = {3: FaultKind.MACHINERY, 7: FaultKind.DIALOGUE}
    fault_at = {str(entries[place].messages[0]["content"]): kind for place, kind in faults.items()}
    agent = Stumbling(Player(gold, entries), fault_at)
    traces = tmp_path / "traces.jsonl"
    records = run_entries(entries, agent, release=ToolRelease.TEXT, traces=traces)
    assert [record.entry for record in records] == [entry.id for entry in entries]
    found = score_entries(records).categories[BfclCategory.BASE]
    assert (found.right, found.judged, found.faults) == (10, 11, 1)
    assert (records[3].end, records[3].verdict, records[3].reason) == (BfclEnd.FAULT, None, "no answer")
    assert as_episode(records[3]).harness_fault
    assert records[7].verdict is not None
    assert records[7].verdict.error_type == INFERENCE_ERROR
    again = run_entries(entries, Player(gold, entries), release=ToolRelease.TEXT, traces=traces)
    found = score_entries(again).categories[BfclCategory.BASE]
    assert (found.right, found.judged, found.faults) == (11, 12, 0)


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), PolicyError("out of memory")])
def test_whatever_stops_a_run_finished_entries_are_kept(stop: BaseException, tmp_path: Path) -> None:
    entries, traces = BASE[:20], tmp_path / "traces.jsonl"
    agent = Stumbling(Player(gold, entries), stop_after=20, stop=stop)
    with pytest.raises(type(stop)):
        run_entries(entries, agent, release=ToolRelease.TEXT, traces=traces)
    kept = read_bfcl(traces)
    assert 3 < len(kept) < 20
    reports: list[BfclRecord] = []
    whole = run_entries(entries, Player(gold, entries), release=ToolRelease.TEXT, traces=traces, report=reports.append)
    assert len(reports) == 20 - len(kept)
    assert without_times(whole) == without_times(
        run_entries(entries, Player(gold, entries), release=ToolRelease.TEXT, traces=tmp_path / "whole.jsonl")
    )


def without_times(records: Sequence[BfclRecord]) -> list[str]:
    """Lines that do not depend on how fast the machine is."""
    lines = [json.loads(bfcl_to_line(record)) for record in records]
    for outcome in (o for line in lines for steps in line["turns"] for step in steps for o in step["outcomes"]):
        outcome["seconds"] = 0.0
    return list(map(json.dumps, lines))


KILLED = """
import os, signal, sys
from pathlib import Path
from bfcl_play import Player, gold, run_entries
from fission_grpo.environments.bfcl.entries import bfcl_entries
from fission_grpo.evaluation.protocols.bfcl import ToolRelease

class Killed(Player):
    def answer(self, dialogues, *, seed):
        if len(self.asked) == 25:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().answer(dialogues, seed=seed)

entries = bfcl_entries("base")[:20]
run_entries(entries, Killed(gold, entries, width=4), release=ToolRelease.TEXT, traces=Path(sys.argv[1]))
"""


def test_a_kill_loses_at_most_the_entries_in_flight(tmp_path: Path) -> None:
    traces = tmp_path / "traces.jsonl"
    tests = Path(__file__).parents[1]
    path = os.pathsep.join([str(tests / "support"), str(tests.parent / "src")])
    environment = {**os.environ, "PYTHONPATH": path}
    died = subprocess.run([sys.executable, "-c", KILLED, str(traces)], env=environment, check=False)
    assert died.returncode == -signal.SIGKILL
    begun = sum(first <= 25 for first in first_batches(BASE[:20], width=4))
    assert len(read_bfcl(traces)) >= begun - 4 > 0


def first_batches(entries: Sequence[Task], width: int) -> list[int]:
    """The batch in which a gold player first sees each entry."""
    free, begins = [0] * width, []
    for entry in entries:
        place = free.index(min(free))
        begins.append(free[place])
        free[place] += sum(len(calls) + 1 for calls in entry.gold)
    return begins


@dataclass
class Faulty:
    """An agent whose server is down."""

    name: str = "faulty"
    width: int = 5

    def answer(self, dialogues: Sequence[Conversation], *, seed: int) -> list[Answer | AgentFault]:
        return [AgentFault(reason="connection refused") for _ in dialogues]


def test_an_evaluation_in_which_every_entry_met_a_fault_has_no_score(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"all of 2 episodes met a fault \(see .*traces\.jsonl\); repair it"):
        run_entries(BASE[:2], Faulty(), release=ToolRelease.TOOLS, traces=tmp_path / "traces.jsonl")
    assert len(read_bfcl(tmp_path / "traces.jsonl")) == 2


def test_a_half_written_last_line_is_dropped_with_a_warning(tmp_path: Path) -> None:
    entries, traces = BASE[:6], tmp_path / "traces.jsonl"
    agent = Player(gold, entries, width=2)
    run_entries(entries[:4], agent, release=ToolRelease.TEXT, traces=traces)
    traces.write_bytes(traces.read_bytes()[:-30])
    assert len(read_bfcl(traces)) == 3
    with pytest.warns(UserWarning, match="cut off"):
        records = run_entries(entries, agent, release=ToolRelease.TEXT, traces=traces)
    assert [record.entry for record in records] == [entry.id for entry in entries]
    assert len(read_bfcl(traces)) == 6


def test_as_many_dialogues_as_the_agent_likes_are_in_flight(tmp_path: Path) -> None:
    agent = Player(gold, BASE[:30], width=7)
    run_entries(BASE[:30], agent, release=ToolRelease.TEXT, traces=tmp_path / "traces.jsonl")
    assert max(agent.asked) == 7
    assert agent.asked[: len(agent.asked) // 2] == [7] * (len(agent.asked) // 2)


def test_records_survive_their_file(perfect: list[BfclRecord], tmp_path: Path) -> None:
    odd = r'{"name": "echo", "arguments": {"content": "\ud800 ü\n", "n": [1, 2.5, null, true]}}'
    texts = [f"<tool_call>\n{odd}\n</tool_call><tool_call>{{</tool_call>", DONE]
    record, _ = play_texts(BASE[0], texts)
    assert record.turns[0][0].failures
    assert bfcl_from_line(bfcl_to_line(record)) == record
    path = tmp_path / "traces.jsonl"
    path.write_text("".join(bfcl_to_line(record) + "\n" for record in perfect))
    assert read_bfcl(path) == tuple(perfect)


def test_lines_that_are_no_records_are_all_named(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    path.write_text('{"entry": "a"}\n[]\nno\n', encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_bfcl(path)
    assert len(caught.value.problems) == 3


def test_an_executed_call_hides_the_broken_block_beside_it_from_the_metrics() -> None:
    good = say(ToolCall(name="ls", arguments={}))
    record, _ = play_texts(BASE[0], [f"{good}\n<tool_call>\n{{\n</tool_call>", "<tool_call>\n{\n</tool_call>"])
    first, second, *_ = as_episode(record).turns
    assert not first.erred
    assert second.error is ErrorClass.FORMAT
    assert all(step.failures for step in record.turns[0])


def test_an_answer_that_was_cut_short_is_not_taken_for_words() -> None:
    record, _ = play_texts(BASE[0], [])
    assert as_episode(record).end is EndReason.ANSWERED
    cut = tuple(tuple(replace(step, finish=FinishReason.LENGTH) for step in steps) for steps in record.turns)
    assert as_episode(replace(record, turns=cut)).end is EndReason.LENGTH


def test_800_recorded_transcripts_are_judged_again_in_no_time(perfect: list[BfclRecord], tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    unjudged = [replace(record, verdict=None, turn_ok=()) for record in perfect]
    path.write_text("".join(bfcl_to_line(record) + "\n" for record in unjudged))
    again: list[BfclRecord] = []
    functions = entered(lambda: again.extend(map(judge_again, read_bfcl(path))))
    assert score_entries(again).overall == 1.0
    assert functions.total() < 800 * 1_000  # 370 a transcript when this was written
    assert again == perfect


def test_a_missing_category_counts_as_zero_and_is_named(perfect: list[BfclRecord]) -> None:
    found = score_entries(record for record in perfect if record.category is BfclCategory.BASE)
    assert found.overall == 0.25
    assert set(found.missing) == set(BfclCategory) - {BfclCategory.BASE}
    assert not found.complete


def spin(entry: Task, turn: int, step: int) -> Sequence[ToolCall]:
    """Gold, and in the last turn of every other scenario, in the first of the others, no end of wrong calls."""
    endless = turn == (len(entry.gold) - 1 if entry.meta["scenario"] % 2 else 0)
    wrong = misspelt(next(call for calls in entry.gold for call in calls))
    return gold_at_once(entry, turn, step) or ((wrong,) if endless else ())


def read_loosely(text: str) -> Answer:
    """The text without line breaks, which the official reader takes for words."""
    return read_qwen_fc(text.replace("\n", ""), Strictness.LENIENT)


def exported_record(entry: Task, script: Script, read: Callable[[str], Answer]) -> BfclRecord:
    episode = play_entry(entry, release=ToolRelease.TEXT)
    dialogue, player = next(episode), Player(script, [entry])
    try:
        while True:
            dialogue = episode.send(read(player.reply(dialogue).text))
    except StopIteration as stop:
        record: BfclRecord = stop.value
        return record


def test_the_official_scorer_reads_the_export_as_we_do(tmp_path: Path) -> None:
    ways = product((gold_at_once, always_wrong, recover_half, spin), (read_qwen_fc, read_loosely))
    records = [exported_record(entry, *way) for entry, way in zip(ENTRIES[::5], cycle(ways), strict=False)]
    empty, _ = play_texts(BASE[1], [""] * 9)
    files = export([*records, empty, replace(empty, entry="multi_turn_base_2", end=BfclEnd.FAULT)], tmp_path / "result")
    folder = tmp_path / "result" / "Qwen_Qwen3-8B-FC" / "multi_turn"
    assert files == tuple(folder / f"BFCL_v4_multi_turn_{category}_result.json" for category in BfclCategory)
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    by_id = {record.entry: record for record in [*records, empty]}
    assert {line["id"] for line in lines} == by_id.keys()
    questions = [
        {"category": str(by_id[line["id"]].category), "id": line["id"], "result": line["result"]} for line in lines
    ]
    with official(questions, tmp_path) as answers:
        theirs = answers()
    ordered = [by_id[line["id"]] for line in lines]
    for record, answer in zip(ordered, theirs, strict=True):
        assert record.verdict is not None
        assert (record.verdict.ok, record.verdict.error_type) == (answer["valid"], answer["error"]), record.entry
    assert len({answer["error"] for answer in theirs}) >= 4
    assert sum(record.force_quit and answer["valid"] for record, answer in zip(ordered, theirs, strict=True)) > 5


SCRIPTED = AgentChoice(model="scripted", mode=PromptMode.OFFICIAL_QWEN_FC)


def settings(*, seed: int = 0, agent: AgentChoice = SCRIPTED) -> BfclSettings:
    return BfclSettings(agent=agent, categories=(BfclCategory.BASE,), limit=5, seed=seed)


def test_an_evaluation_keeps_its_folder_and_says_what_it_is(tmp_path: Path) -> None:
    agent = Player(gold, BASE)
    found = evaluate_bfcl(settings(), output=tmp_path, agent=agent)
    told = json.loads((tmp_path / "score.json").read_text())
    assert told == found.as_json()
    assert (told["overall"], told["official"], told["departures"]) == (0.25, False, [])
    assert told["counted_as_zero"] == ["miss_func", "miss_param", "long_context"]
    with pytest.raises(ConfigError, match="already holds an evaluation"):
        evaluate_bfcl(settings(), output=tmp_path, agent=agent)
    with pytest.raises(ConfigError, match=r"other settings \(seed\)"):
        evaluate_bfcl(settings(seed=1), output=tmp_path, agent=agent, resume=True)
    agent.asked.clear()
    assert evaluate_bfcl(settings(), output=tmp_path, agent=agent, resume=True) == found
    assert agent.asked == []


def test_what_departs_from_the_official_protocol_is_named() -> None:
    assert settings().deviations() == ()
    odd = settings(agent=replace(SCRIPTED, strictness=Strictness.LENIENT, temperature=0.7, max_tokens=100))
    assert len(odd.deviations()) == 3
