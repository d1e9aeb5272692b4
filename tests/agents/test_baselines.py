"""Baselines without training: the model reads something else, the world stays as it is."""

from __future__ import annotations

import pytest
from bfcl_agents import ScriptedAgent, giving_up, stumbling, told_apart
from tiny_policies import chat

from fission_grpo.agents.base import Answer, Conversation
from fission_grpo.agents.baselines import WAIT, CuedFormat, StructuredErrors, WaitMessage, WaitPrefix, ends_in_error
from fission_grpo.agents.formats import ChatToolsFormat
from fission_grpo.agents.local import LocalAgent
from fission_grpo.chat.parse import assistant_message, tool_message
from fission_grpo.environments.bfcl.entries import bfcl_entries
from fission_grpo.environments.bfcl.official import bfcl_tools
from fission_grpo.evaluation.bfcl.records import as_episode
from fission_grpo.evaluation.interleave import interleave
from fission_grpo.evaluation.protocols.bfcl import ToolRelease, play_entry
from fission_grpo.policy.scripted import ScriptedPolicy
from fission_grpo.types import Message, ToolCall

ERROR = '{"error": "cd: x: No such directory. You cannot use path to change directory."}'
SCHEMA = "Error during execution: GorillaFileSystem.cd() got an unexpected keyword argument 'dir'"
CD = ToolCall(name="cd", arguments={"folder": "x"})
ASKED: Message = {"role": "user", "content": "go"}
ENTRIES = told_apart(bfcl_entries("base"))[:8]


def dialogue(*messages: Message) -> Conversation:
    return Conversation(messages=(ASKED, *messages), tools=bfcl_tools(("GorillaFileSystem",)))


def failed(call: ToolCall = CD, text: str = ERROR) -> tuple[Message, Message]:
    return assistant_message([call]), tool_message(text)


def structured() -> StructuredErrors:
    return StructuredErrors(ScriptedAgent(ENTRIES, giving_up))


def test_an_error_keeps_its_words_and_gets_advice() -> None:
    shown = structured().reword(dialogue(*failed()))
    assert shown.messages[:2] == (ASKED, assistant_message([CD]))
    assert shown.messages[2]["tool_call_id"] == tool_message("")["tool_call_id"]
    text = str(shown.messages[2]["content"])
    assert text.startswith(ERROR)
    assert "diagnosis: a value names nothing that exists here and now (E4)" in text


def test_the_schema_knows_more() -> None:
    call = ToolCall(name="cd", arguments={"dir": "x"})
    text = str(structured().reword(dialogue(*failed(call, SCHEMA))).messages[-1]["content"])
    assert text.splitlines()[0] == SCHEMA
    assert "unexpected argument 'dir'" in text.splitlines()[1]
    assert text.splitlines()[2].startswith("diagnosis: an argument is missing")


@pytest.mark.parametrize(
    "call",
    [
        {"id": "a", "type": "function", "function": {"name": "cd", "arguments": '{"dir": "x"}'}},
        {"name": "cd", "arguments": {"dir": "x"}},
    ],
)
def test_calls_are_read_in_every_form(call: dict[str, object]) -> None:
    asked: Message = {"role": "assistant", "content": "", "tool_calls": [call]}
    assert "hint: " in str(structured().reword(dialogue(asked, tool_message(SCHEMA))).messages[-1]["content"])


def test_answers_that_are_no_errors_stay() -> None:
    both = assistant_message([ToolCall(name="ls", arguments={}), CD])
    shown = structured().reword(dialogue(both, tool_message("error.txt"), tool_message(ERROR, 1)))
    assert shown.messages[2] == tool_message("error.txt")
    assert "diagnosis" in str(shown.messages[3]["content"])
    untouched = dialogue(*failed(text="{}"))
    assert structured().reword(untouched) == untouched


def test_calls_that_cannot_be_told_apart_get_advice_alone() -> None:
    shown = structured().reword(dialogue({"role": "assistant", "content": "?"}, tool_message(SCHEMA)))
    assert "hint" not in str(shown.messages[-1]["content"])
    assert "diagnosis" in str(shown.messages[-1]["content"])


def test_history_keeps_its_wording() -> None:
    first = structured().reword(dialogue(*failed()))
    later = structured().reword(dialogue(*failed(), *failed(text="{}"), {"role": "user", "content": "more"}))
    assert later.messages[: len(first.messages)] == first.messages


def test_the_world_and_the_verdict_do_not_change() -> None:
    def play(wrapped: bool) -> list[tuple[object, ...]]:
        inner = ScriptedAgent(ENTRIES, stumbling(1))
        agent = StructuredErrors(inner) if wrapped else inner
        episodes = (play_entry(entry, release=ToolRelease.TOOLS) for entry in ENTRIES)
        records = sorted(interleave(episodes, agent, purpose="test", seed=0), key=lambda record: record.entry)
        advised = any("diagnosis: there is no tool" in str(seen.messages) for seen in inner.seen)
        assert advised is wrapped
        turns = [as_episode(record).turns for record in records]
        return [
            (record.entry, record.verdict, [outcome.text for turn in one for outcome in turn.outcomes])
            for record, one in zip(records, turns, strict=True)
        ]

    assert play(wrapped=True) == play(wrapped=False)


def test_where_a_dialogue_ends_in_an_error() -> None:
    assert ends_in_error(dialogue(*failed()))
    assert not ends_in_error(dialogue(*failed(), {"role": "user", "content": "more"}))
    assert not ends_in_error(dialogue(*failed(), *failed(text="{}")))
    assert not ends_in_error(dialogue())


def test_the_cue_in_the_error() -> None:
    agent = WaitMessage(ScriptedAgent(ENTRIES, giving_up))
    assert agent.cue(dialogue(*failed())).messages[-1] == tool_message(f"{ERROR}\n\n{WAIT}")
    assert agent.cue(dialogue()) == dialogue()


def test_the_exact_cue_is_the_models_own_first_word() -> None:
    seen: list[str] = []

    def script(context: str) -> str:
        seen.append(context)
        return ', that failed.\n<tool_call>\n{"name": "ls", "arguments": {}}\n</tool_call>'

    tokenizer = chat().renderer.tokenizer
    policy = ScriptedPolicy(tokenizer, script, eos_id=chat().eos_id)
    prompts = CuedFormat(ChatToolsFormat(chat()), chat().renderer.encode)
    agent = WaitPrefix(lambda cued: LocalAgent(policy, cued, name="tiny", max_tokens=200), prompts)
    plain = ChatToolsFormat(chat())
    erred, fresh = dialogue(*failed()), dialogue()
    after_error, at_start = agent.answer([erred, fresh], seed=0)
    assert isinstance(after_error, Answer)
    assert isinstance(at_start, Answer)
    # The prompt goes on with exactly the cue's tokens, and only after an error.
    assert prompts.prompt(erred) == (*plain.prompt(erred), *chat().renderer.encode(WAIT))
    assert prompts.prompt(fresh) == plain.prompt(fresh)
    assert [context.endswith(WAIT) for context in seen] == [True, False]
    # History holds what stood there.
    assert after_error.text.startswith("Wait, that failed.")
    assert after_error.message == plain.read(after_error.text).message
    assert str(after_error.message["content"]) == "Wait, that failed."
    assert at_start.text.startswith(", that failed.")
    assert after_error.calls == at_start.calls == (ToolCall(name="ls", arguments={}),)
    assert after_error.tokens == at_start.tokens
