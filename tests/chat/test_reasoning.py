"""What a model thinks: asked of its template, left out of its length, taken out of a corrective context by choice."""

from __future__ import annotations

from dataclasses import replace

import pytest
from chat_tokenizers import NANO, byte_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from tiny_policies import ENVIRONMENTS, tasks

from fission_grpo.algorithm.context import Parent, corrective_context
from fission_grpo.algorithm.judge import Judge
from fission_grpo.chat.format import ChatFormat
from fission_grpo.chat.parse import parse_message, reasoning_in, render_call
from fission_grpo.chat.templates import with_arguments
from fission_grpo.errors import ConfigError
from fission_grpo.policy.base import Sampling
from fission_grpo.policy.scripted import ScriptedPolicy
from fission_grpo.rollout import Horizon, Trajectory, open_task, rollout
from fission_grpo.simulator.base import Feedback
from fission_grpo.types import ToolCall

CHAT = ChatFormat(byte_tokenizer(NANO))
TASK = tasks()[0]
GOLD = "\n".join(map(render_call, TASK.target))
WRONG = render_call(ToolCall(name="no_such_tool", arguments={}))
THOUGHT = "<think>\nThat is the tool, I think.\n</think>\n\n"

ASKS = (
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
    "{{ kinds | join('+') if kinds else '' }}"
)


def play(*answers: str, horizon: Horizon = Horizon.CALL) -> Trajectory:
    said = iter(answers)
    policy = ScriptedPolicy(CHAT.tokenizer, lambda text: next(said), eos_id=CHAT.eos_id, context_window=1 << 20)
    (trajectory,) = rollout(
        [open_task(TASK, chat=CHAT, environments=ENVIRONMENTS)],
        policy=policy,
        chat=CHAT,
        sampling=Sampling(max_tokens=2000),
        horizons=[horizon],
        max_turns=4,
        seed=0,
    )
    return trajectory


def test_a_template_is_told_its_arguments_for_good() -> None:
    """Whoever gets the tokenizer need not know them: another engine, a saved policy."""
    tokenizer = byte_tokenizer(f"{NANO}{ASKS}")
    messages = [{"role": "user", "content": "hi"}]

    def shown(**arguments: object) -> str:
        tokenizer.chat_template = with_arguments(f"{NANO}{ASKS}", arguments)
        text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return text

    plain = shown()
    assert shown(enable_thinking=True) == plain
    assert shown(enable_thinking=False) == f"{plain}<think></think>"
    assert shown(kinds=['a "b" é\n', "c"], enable_thinking=None) == f'{plain}<think></think>a "b" é\n+c'
    assert shown(kinds={"x": [1, 2.5, {}]}) == f"{plain}x"
    with pytest.raises(ConfigError, match="'not a name' is no name of an argument"):
        shown(**{"not a name": 1})
    with pytest.raises(ConfigError, match="expected what JSON has"):
        shown(kinds=object())


@pytest.mark.parametrize(
    ("text", "thought"),
    [
        (f"{THOUGHT}words", THOUGHT),
        ("the prompt opened it</think> words", "the prompt opened it</think> "),
        ("<think>one</think>a<think>two</think>b", "<think>one</think><think>two</think>"),
        ("words <think>and no end", "<think>and no end"),
        ("words", ""),
        ("words <think>x</think> </think> more", "<think>x</think> "),
    ],
)
def test_thinking_is_what_the_parser_takes_for_it(text: str, thought: str) -> None:
    assert "".join(reasoning_in(text)) == thought


@given(st.lists(st.sampled_from(["<think>", "</think>", " ", "a", GOLD]), max_size=8).map("".join))
def test_no_call_that_counts_is_taken_for_a_thought(text: str) -> None:
    rest = text
    for thought in reasoning_in(text):
        before, found, behind = rest.partition(thought)
        assert found
        rest = f"{before}<think></think>{behind}"
    assert parse_message(rest).calls == parse_message(text).calls


def test_thinking_costs_no_length() -> None:
    plain, thought = play(GOLD), play(THOUGHT * 30 + GOLD)
    judge = Judge(chat=CHAT)
    rewards = [judge(one, horizon=Horizon.CALL, progress=0.5).reward for one in (plain, thought)]
    assert rewards[0] is not None
    assert rewards[1] is not None
    assert rewards[0].total == rewards[1].total
    assert rewards[0].value("length") == 1.0
    chatty = judge(play("Well, let me see. " * 30 + GOLD), horizon=Horizon.CALL, progress=0.5).reward
    assert chatty is not None
    assert chatty.value("length") < 0.01


def test_a_corrective_context_may_leave_the_thoughts_out() -> None:
    trajectory = play(f"{THOUGHT}{WRONG}", f"{THOUGHT}{WRONG}", f"{THOUGHT}{WRONG}", "Done.", horizon=Horizon.TURN)
    member = Judge(chat=CHAT)(trajectory, horizon=Horizon.TURN, progress=0.0)
    assert member.failure is not None
    failure = replace(member.failure, turn=1)

    def text(keep: bool) -> str:
        context = corrective_context(
            trajectory,
            failure,
            Feedback(texts=("no such tool",), origin="static"),
            chat=CHAT,
            keep_reasoning=keep,
            above=None,
            parent=Parent(group="g", trajectory=0, turn=1),
            policy_version=0,
        )
        return CHAT.renderer.decode(context.ids)

    assert text(keep=True).count(THOUGHT) == 2
    assert text(keep=False) == text(keep=True).replace("\nThat is the tool, I think.\n", "")


def test_a_thought_that_does_not_end_stays() -> None:
    for said in ("words", "<think>words", "<think></think>"):
        ids = tuple(CHAT.renderer.encode(said))
        assert CHAT.without_reasoning(ids) == ids
    opened = tuple(CHAT.renderer.encode("thought</think>words"))
    assert CHAT.renderer.decode(CHAT.without_reasoning(opened)) == "</think>words"
