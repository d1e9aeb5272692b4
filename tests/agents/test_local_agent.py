"""Prompt modes and the local agent: what a model is shown, and what is made of what it says."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

pytest.importorskip("bfcl_eval", reason="the official benchmark is not installed")

from chat_tokenizers import NANO, byte_tokenizer
from tiny_policies import tiny_model

from fission_grpo.agents.base import AgentFault, Answer, Conversation, FaultKind
from fission_grpo.agents.choice import AgentChoice
from fission_grpo.agents.formats import ChatToolsFormat, PromptMode, QwenFCFormat, make_format, signature
from fission_grpo.agents.local import LocalAgent
from fission_grpo.agents.qwen_fc import Strictness, qwen_fc_prompt, read_qwen_fc
from fission_grpo.chat.format import ChatFormat
from fission_grpo.chat.templates import chat_template
from fission_grpo.commands.bfcl import BfclSettings, evaluate_bfcl
from fission_grpo.environments.bfcl.entries import BfclCategory, bfcl_entries
from fission_grpo.environments.bfcl.official import bfcl_documents, bfcl_tools
from fission_grpo.errors import ConfigError
from fission_grpo.policy.base import Context, Sampling
from fission_grpo.policy.local.hf_policy import HFPolicy
from fission_grpo.policy.scripted import ScriptedPolicy
from fission_grpo.types import Completion, FinishReason, ParseFailureKind, ToolCall

CHAT = ChatFormat(byte_tokenizer(chat_template("hermes")))
TOOLS = bfcl_tools(["TicketAPI"])
LS = '{"name": "ls", "arguments": {"a": true}}'
CALLED = ToolCall(name="ls", arguments={"a": True})


def dialogue(text: str = "Please list my tickets.") -> Conversation:
    return Conversation(messages=({"role": "user", "content": text},), tools=TOOLS)


def agent(policy: object, mode: PromptMode = PromptMode.CHAT_TOOLS, **options: int) -> LocalAgent:
    return LocalAgent(policy, make_format(mode, CHAT), name="tiny", temperature=0.0, **options)  # type: ignore[arg-type]


def scripted(*words: str, window: int = 1 << 20) -> ScriptedPolicy:
    """Says the word that stands in the prompt, twice."""
    script = lambda text: next(word * 2 for word in words if word in text)  # noqa: E731
    return ScriptedPolicy(CHAT.renderer.tokenizer, script, eos_id=CHAT.eos_id, context_window=window)


@pytest.mark.parametrize("mode", PromptMode)
def test_every_mode_shows_the_request_and_the_functions(mode: PromptMode) -> None:
    text = CHAT.renderer.decode(make_format(mode, CHAT).prompt(dialogue()))
    assert "Please list my tickets." in text
    assert all(tool["function"]["name"] in text for tool in TOOLS)
    assert text.endswith("<|im_start|>assistant\n")


def test_the_official_mode_shows_the_official_documents_and_the_compact_one_less_than_a_fifth() -> None:
    official = qwen_fc_prompt(dialogue())
    compact = CHAT.renderer.decode(make_format(PromptMode.COMPACT, CHAT).prompt(dialogue()))
    assert '"type": "dict"' in official
    assert '"response": {' in official
    assert len(compact) < len(official) / 5


def test_a_signature_is_one_short_line() -> None:
    create = next(tool for tool in TOOLS if tool["function"]["name"] == "create_ticket")
    assert signature(create) == (
        "create_ticket(title: string, description: string = '', priority: integer = 1): "
        "Create a ticket in the system and queue it"
    )
    lines = [signature(tool) for tool in bfcl_tools(["GorillaFileSystem", "TravelAPI", "MathAPI"])]
    assert all("\n" not in line and "belongs to" not in line for line in lines)


def test_documents_stay_as_they_are() -> None:
    before = json.dumps(bfcl_documents()["ls"])
    qwen_fc_prompt(Conversation(messages=dialogue().messages, tools=bfcl_tools(["GorillaFileSystem"])))
    assert json.dumps(bfcl_documents()["ls"]) == before
    assert len(bfcl_documents()) == 128


def test_the_official_mode_is_for_official_functions() -> None:
    tool = {"type": "function", "function": {"name": "brew_tea", "description": "", "parameters": {}}}
    with pytest.raises(ConfigError, match="brew_tea"):
        qwen_fc_prompt(Conversation(messages=dialogue().messages, tools=(tool,)))


def test_line_breaks_matter_to_the_official_reader_alone() -> None:
    text = f"Sure. <tool_call>{LS}</tool_call>"
    strict, lenient = read_qwen_fc(text), read_qwen_fc(text, Strictness.LENIENT)
    assert (strict.calls, lenient.calls) == ((), (CALLED,))
    assert [failure.kind for failure in strict.failures] == [ParseFailureKind.UNCLOSED]
    assert text[strict.failures[0].start :] == strict.failures[0].text
    assert lenient.message["tool_calls"] == [{"name": "ls", "arguments": {"a": True}}]


def test_failures_have_their_place_in_the_whole_text() -> None:
    text = f"<think>\nhm\n</think>\n\n<tool_call>\n{{\n</tool_call>\n<tool_call>\n{LS}\n</tool_call>"
    answer = read_qwen_fc(text)
    assert answer.calls == (CALLED,)
    (failure,) = answer.failures
    assert failure.kind is ParseFailureKind.JSON
    assert text[failure.start :].startswith(failure.text)
    assert answer.message["reasoning_content"] == "hm"


def test_a_number_that_no_source_can_spell_is_an_unknown_name() -> None:
    text = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": [-Infinity]}}\n</tool_call>'
    assert read_qwen_fc(text).calls == (ToolCall(name="inf", arguments={}),)


def test_arguments_too_deep_to_keep_are_no_call() -> None:
    deep = "[" * 150 + "]" * 150
    assert read_qwen_fc(f'<tool_call>\n{{"name": "f", "arguments": {{"a": {deep}}}}}\n</tool_call>').calls == ()


def test_a_malformed_message_has_no_calls_in_chat_tools() -> None:
    answer = ChatToolsFormat(CHAT).read(f"<tool_call>{LS}</tool_call><tool_call>{{</tool_call>")
    assert answer.calls == ()
    assert len(answer.failures) == 1
    assert "tool_calls" not in answer.message


def test_only_the_official_mode_has_a_lenient_reader() -> None:
    assert isinstance(make_format(PromptMode.OFFICIAL_QWEN_FC, CHAT, Strictness.LENIENT), QwenFCFormat)
    with pytest.raises(ConfigError, match="lenient"):
        make_format(PromptMode.COMPACT, CHAT, Strictness.LENIENT)
    with pytest.raises(ConfigError, match="lenient"):
        AgentChoice(model="nano", mode=PromptMode.CHAT_TOOLS, strictness=Strictness.LENIENT)


def test_answers_come_back_in_order_with_their_counts() -> None:
    words = ("alpha", "beta", "gamma")
    answers = agent(scripted(*words)).answer([dialogue(word) for word in words], seed=0)
    assert [answer.text for answer in answers if isinstance(answer, Answer)] == [word * 2 for word in words]
    for answer, word in zip(answers, words, strict=True):
        assert isinstance(answer, Answer)
        assert answer.prompt_tokens == len(ChatToolsFormat(CHAT).prompt(dialogue(word)))
        assert (answer.tokens, answer.finish) == (CHAT.length(word * 2) + 1, FinishReason.STOP)


@dataclass
class Noting:
    """Says nothing, and notes what it was asked for."""

    context_window: int
    asked: list[tuple[int, int]] = field(default_factory=list)
    """Rows and most tokens of each batch."""

    def generate(self, contexts: list[Context], *, sampling: Sampling, seed: int) -> list[Completion]:
        self.asked.append((len(contexts), sampling.max_tokens))
        return [Completion(ids=(CHAT.eos_id,), logprobs=(0.0,), finish=FinishReason.STOP) for _ in contexts]


def test_the_window_bounds_the_answer_and_a_full_one_is_a_fault_of_the_dialogue() -> None:
    length = len(ChatToolsFormat(CHAT).prompt(dialogue("")))
    policy = Noting(context_window=length + 100)
    texts = ["", "x" * 50, "", "x" * 98, "x" * 97]
    answers = agent(policy, max_tokens=60).answer([dialogue(text) for text in texts], seed=0)
    assert sorted(policy.asked) == [(1, 1), (1, 48), (2, 60)]
    assert [isinstance(answer, Answer) for answer in answers] == [True, True, True, False, True]
    assert isinstance(answers[3], AgentFault)
    assert answers[3].kind is FaultKind.DIALOGUE


def test_words_that_cannot_be_shown_again_are_a_fault_of_the_dialogue() -> None:
    said = read_qwen_fc("<tool_call>\n5\n</tool_call>").message
    shown = Conversation(messages=(*dialogue().messages, said, {"role": "user", "content": "And now?"}), tools=TOOLS)
    (fault,) = agent(scripted("now"), PromptMode.OFFICIAL_QWEN_FC).answer([shown], seed=0)
    assert isinstance(fault, AgentFault)
    assert fault.kind is FaultKind.DIALOGUE


def test_side_by_side_or_one_by_one_a_real_model_says_the_same() -> None:
    model = tiny_model(vocabulary=len(CHAT.renderer.tokenizer), seed=3)
    dialogues = [Conversation(messages=dialogue(word).messages, tools=TOOLS[:1]) for word in ("one", "twenty-two", "3")]

    def fresh() -> LocalAgent:
        return agent(HFPolicy(model, eos_id=CHAT.eos_id, pad_id=CHAT.pad_id), max_tokens=12)

    together = fresh().answer(dialogues, seed=0)
    assert together == [answer for one in dialogues for answer in fresh().answer([one], seed=0)]
    assert all(isinstance(answer, Answer) and answer.tokens for answer in together)


def test_nano_is_evaluated_end_to_end(tmp_path: Path) -> None:
    settings = BfclSettings(
        agent=AgentChoice(model="nano", max_tokens=24),
        categories=(BfclCategory.BASE, BfclCategory.MISS_FUNC),
        limit=2,
    )
    found = evaluate_bfcl(settings, output=tmp_path / "evaluation")
    assert [record.entry for record in found.records] == [
        entry.id for category in settings.categories for entry in bfcl_entries(category)[:2]
    ]
    assert all(record.verdict is not None for record in found.records)
    assert any(step.tokens for record in found.records for steps in record.turns for step in steps)
    assert json.loads((tmp_path / "evaluation" / "score.json").read_text())["departures"][0] == "prompt mode chat-tools"


def test_a_model_that_is_not_there_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown model"):
        evaluate_bfcl(BfclSettings(agent=AgentChoice(model="nanoo")), output=tmp_path / "evaluation")
    assert not (tmp_path / "evaluation").exists()


def test_nano_template_is_shown_signatures_by_chat_tools() -> None:
    chat = ChatFormat(byte_tokenizer(NANO))
    assert "create_ticket(title, description, priority)" in chat.renderer.decode(
        ChatToolsFormat(chat).prompt(dialogue())
    )
