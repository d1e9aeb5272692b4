"""Dialogues as rows to be learned, token by token what a policy would see and say in a rollout.

Only what an assistant says is learned; prompts, tool results and injected errors are conditions.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from fission_grpo.chat.format import ChatFormat
from fission_grpo.chat.parse import render_call
from fission_grpo.chat.transcript import Transcript
from fission_grpo.environments.base import Environments
from fission_grpo.environments.dialogue import recorded_calls, remaining_gold
from fission_grpo.errors import ConfigError
from fission_grpo.rollout import open_task
from fission_grpo.tasks.dialogue import DONE
from fission_grpo.types import Completion, FinishReason, Message, Task, TokenRow, Tool


def gold_dialogue(task: Task, *, chat: ChatFormat, environments: Environments) -> TokenRow:
    """The remaining gold calls of a task, played in its world, with the world's real replies and the final answer.

    Every gold call is a message of its own. A task without a world ends with its target.

    Raises:
        ConfigError: the world cannot be built, or a gold call fails in it.
    """
    start = open_task(task, chat=chat, environments=environments)
    if start.fault:
        raise ConfigError(f"task {task.id}: its world cannot be built: {start.fault}")
    transcript = start.transcript.fork()
    if start.environment is None:
        _say(transcript, "\n".join(map(render_call, task.target)) or DONE, chat)
        return TokenRow(ids=transcript.ids, trained=transcript.sampled)
    for number, calls in enumerate(remaining_gold(task)):
        if number:
            start.environment.next_turn()
            transcript.extend_observed(chat.user(FinishReason.STOP, task.followups[number - 1]))
        for call in calls:
            _say(transcript, render_call(call), chat)
            outcome = start.environment.execute(call)
            if outcome.is_error:
                raise ConfigError(f"task {task.id}: gold call {call.name} fails in its own world: {outcome.text}")
            transcript.extend_observed(chat.reply(FinishReason.STOP, [outcome.text]))
        _say(transcript, DONE, chat)
    return TokenRow(ids=transcript.ids, trained=transcript.sampled)


def next_message(task: Task, *, chat: ChatFormat) -> TokenRow:
    """The gold message that comes next, and nothing after it."""
    transcript = Transcript(chat.prompt(task.messages, task.tools))
    _say(transcript, "\n".join(map(render_call, task.target)) or DONE, chat)
    return TokenRow(ids=transcript.ids, trained=transcript.sampled)


def conversation_row(messages: Sequence[Message], tools: Sequence[Tool], *, chat: ChatFormat) -> TokenRow:
    """A whole conversation in OpenAI form: every assistant message is learned, but those of weight 0.

    What stands before the first of them is the prompt; results stand in the order of the calls that they answer. What
    comes after the last one teaches nothing and is left out.

    Args:
        messages: sound ones, see `conversation_problems`.
    Raises:
        ConfigError: the template refuses the beginning.
        ValueError: a call holds a number that JSON cannot.
    """
    places = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    transcript = Transcript(chat.prompt(messages[: places[0]], tools))
    for place, following in pairwise([*places, len(messages)]):
        message = messages[place]
        calls = recorded_calls(f"messages[{place}]", message)
        ids = (*chat.renderer.said(message.get("content") or "", calls), chat.eos_id)
        if message.get("weight", 1):
            _said(transcript, ids)
        else:
            transcript.given(ids)
        if following < len(messages):
            transcript.extend_observed(_between(message, messages[place + 1 : following], chat))
    return TokenRow(ids=transcript.ids, trained=transcript.sampled)


def _between(said: Message, replies: Sequence[Message], chat: ChatFormat) -> tuple[int, ...]:
    """What a policy is shown after a message: the next user message, or the results of its calls in their order."""
    if replies[0]["role"] == "user":
        return chat.user(FinishReason.STOP, replies[0]["content"])
    by_id = {reply.get("tool_call_id"): reply["content"] for reply in replies}
    asked = [call.get("id") for call in said["tool_calls"]]
    paired = len(by_id) == len(replies) and by_id.keys() == set(asked)
    return chat.reply(
        FinishReason.STOP, [by_id[name] for name in asked] if paired else [reply["content"] for reply in replies]
    )


def _say(transcript: Transcript, text: str, chat: ChatFormat) -> None:
    _said(transcript, (*chat.tokenizer(text, add_special_tokens=False)["input_ids"], chat.eos_id))


def _said(transcript: Transcript, ids: tuple[int, ...]) -> None:
    transcript.extend_sampled(Completion(ids=ids, logprobs=(0.0,) * len(ids), finish=FinishReason.STOP))
