"""Is a model's chat template safe for training on tool dialogues? Asked before anything is spent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from transformers import PreTrainedTokenizerBase

from fission_grpo.chat import template_probe
from fission_grpo.chat.format import ChatFormat
from fission_grpo.chat.parse import assistant_message, tool_message
from fission_grpo.chat.render import ChatTemplateError, Renderer
from fission_grpo.types import FinishReason, Message

_SHOWN = 12
"""Tokens shown on either side where two renderings part."""


class Status(StrEnum):
    """What a check found."""

    PASS = "pass"
    WARN = "warn"
    """Training is exact all the same; something around it needs attention."""
    FAIL = "fail"
    """Training would be wrong: `ChatFormat` refuses, or tokens would mean something else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check and its outcome."""

    name: str
    status: Status
    why: str
    """What was seen, in one line."""
    remedy: str = ""
    """What to do; empty when `status` is PASS."""


def diagnose_template(tokenizer: PreTrainedTokenizerBase) -> list[Finding]:
    """All checks on one tokenizer and its chat template, most basic first; only the first if there is no template."""
    try:
        renderer = Renderer(tokenizer)
    except ChatTemplateError as error:
        return [_failed("chat template", error)]
    return [_passed("chat template", "present"), *(_ask(name, check, renderer) for name, check in _CHECKS.items())]


def _ask(name: str, check: Callable[[Renderer, str], Finding], renderer: Renderer) -> Finding:
    try:
        return check(renderer, name)
    except ChatTemplateError as error:
        return _failed(name, error)


def _passed(name: str, why: str) -> Finding:
    return Finding(name=name, status=Status.PASS, why=why)


def _warned(name: str, why: str, remedy: str) -> Finding:
    return Finding(name=name, status=Status.WARN, why=why, remedy=remedy)


def _failed(name: str, error: ChatTemplateError) -> Finding:
    return Finding(name=name, status=Status.FAIL, why=error.why, remedy=error.remedy)


def _tools(renderer: Renderer, name: str) -> Finding:
    template_probe.require_tools(renderer)
    return _passed(name, "the prompt shows tool names and arguments")


def _generation_prompt(renderer: Renderer, name: str) -> Finding:
    template_probe.require_prompt(renderer)
    return _passed(name, "the prompt ends where the assistant's words begin")


def _thinking(renderer: Renderer, name: str) -> Finding:
    injected = template_probe.injected_thinking(renderer)
    if not injected.strip():
        return _passed(name, "nothing is put into the assistant's mouth")
    return _warned(
        name,
        f"the template writes {injected!r} before the assistant's words in the prompt or in the history, not in both",
        "Serve the model with the template that it was trained with; turns of a rollout are kept as they were sampled.",
    )


def _end_of_turn(renderer: Renderer, name: str) -> Finding:
    end = template_probe.end_of_turn(renderer)
    id_, default = renderer.control_ids[end], renderer.tokenizer.eos_token_id
    if id_ == default:
        return _passed(name, f"{end} is one token, id {id_}")
    return _warned(
        name,
        f"turns end with {end} (id {id_}), the tokenizer's eos_token is {renderer.tokenizer.eos_token} (id {default})",
        f"Sampling here stops at {id_}; tell any other server of this model to stop there too.",
    )


def _calls(renderer: Renderer, name: str) -> Finding:
    template_probe.require_calls(renderer)
    return _passed(name, "rendered calls are read back unchanged")


def _replies(renderer: Renderer, name: str) -> Finding:
    template_probe.require_replies(renderer, template_probe.end_of_turn(renderer))
    return _passed(name, "tool results and user messages are shown, in order")


def _prefixes(renderer: Renderer, name: str) -> Finding:
    for kind, dialogue in (("turns", _dialogue("")), ("turns with thinking", _dialogue("<think>\nhm\n</think>\n\n"))):
        whole = renderer.ids(dialogue, template_probe.TOOLS, prompt=True)
        for length in _pauses(dialogue):
            asks = dialogue[length]["role"] == "assistant"
            part = renderer.ids(dialogue[:length], template_probe.TOOLS, prompt=asks)
            if part != whole[: len(part)]:
                where = _parting(renderer, part, whole)
                return _warned(
                    name,
                    f"later messages rewrite earlier {kind}, from message {length} on: {where}",
                    "Rollouts append and are exact; but a server that renders each turn anew shows the model other "
                    "tokens than training did. Serve with appended tokens, or choose a template that keeps its turns.",
                )
    return _passed(name, "a longer dialogue begins with the tokens of the shorter one")


def _appending(renderer: Renderer, name: str) -> Finding:
    appended = _append(ChatFormat(renderer.tokenizer), _dialogue(""))
    rendered = renderer.ids(_dialogue(""), template_probe.TOOLS, prompt=True)
    if appended == rendered:
        return _passed(name, "appended tokens equal the rendering of the same dialogue")
    return _warned(
        name,
        f"appended tokens and the rendering of the same dialogue part: {_parting(renderer, appended, rendered)}",
        "Rollouts append and are exact; compare before you serve this model with another chat template.",
    )


def _injection(renderer: Renderer, name: str) -> Finding:
    """A tool result made of control tokens leaves as many of them in the dialogue as a harmless one."""
    template_probe.require_replies(renderer, template_probe.end_of_turn(renderer))
    hostile = " ".join(renderer.control_ids)
    control = set(renderer.control_ids.values())
    ids = {
        text: renderer.ids(template_probe.reply_dialogue([text]), template_probe.TOOLS, prompt=True)
        for text in (hostile, "plain")
    }
    seen, expected = ([id_ for id_ in ids[text] if id_ in control] for text in (hostile, "plain"))
    if seen != expected:
        raise ChatTemplateError(
            f"Text in a tool result becomes control tokens: {renderer.decode(seen)!r}, expected "
            f"{renderer.decode(expected)!r}",
            "Do not train on untrusted tool results with this tokenizer; use its fast version.",
        )
    if hostile not in renderer.decode(ids[hostile]):
        return _warned(name, "control tokens in tool results are altered", "Expect tool results not to be verbatim.")
    return _passed(name, f"{len(control)} control tokens stay text when a tool result holds them")


_CHECKS: dict[str, Callable[[Renderer, str], Finding]] = {
    "tools": _tools,
    "generation prompt": _generation_prompt,
    "thinking": _thinking,
    "end of turn": _end_of_turn,
    "call round trip": _calls,
    "tool results": _replies,
    "prefix-preserving": _prefixes,
    "append-only": _appending,
    "injection": _injection,
}


def _dialogue(thought: str) -> tuple[Message, ...]:
    """Two user turns with calls, one and two at a time, ending before the assistant's last word."""
    return (
        {"role": "user", "content": "First question"},
        assistant_message(template_probe.CALLS[:1], f"{thought}Let me look."),
        tool_message('{"seen": 1}'),
        assistant_message((), f"{thought}It is 1."),
        {"role": "user", "content": "Second question"},
        assistant_message(template_probe.CALLS, thought),
        tool_message("one"),
        tool_message("two", 1),
    )


def _pauses(dialogue: tuple[Message, ...]) -> list[int]:
    """Lengths at which the dialogue may rest: not between the results of one turn, which a template may join."""
    return [length for length, message in enumerate(dialogue) if length and message["role"] != "tool"]


def _append(chat: ChatFormat, dialogue: tuple[Message, ...]) -> list[int]:
    """The ids of a rollout in which the policy samples what the template itself would have written."""
    ids = list(chat.prompt(dialogue[:1], template_probe.TOOLS))
    for place, message in enumerate(dialogue):
        if message["role"] == "assistant":
            ids += [*_said(chat, dialogue[: place + 1]), chat.eos_id, *_reply(chat, dialogue[place + 1 :])]
    return ids


def _said(chat: ChatFormat, dialogue: tuple[Message, ...]) -> list[int]:
    prompt = chat.renderer.text(dialogue[:-1], template_probe.TOOLS, prompt=True)
    text = chat.renderer.text(dialogue, template_probe.TOOLS, prompt=False)
    said = template_probe.said_after(prompt, text)
    return chat.renderer.encode(said.partition(template_probe.end_of_turn(chat.renderer))[0])


def _reply(chat: ChatFormat, later: tuple[Message, ...]) -> tuple[int, ...]:
    if later[0]["role"] == "user":
        return chat.user(FinishReason.STOP, str(later[0]["content"]))
    count = next((place for place, message in enumerate(later) if message["role"] != "tool"), len(later))
    return chat.reply(FinishReason.STOP, [str(message["content"]) for message in later[:count]])


def _parting(renderer: Renderer, one: Sequence[int], other: Sequence[int]) -> str:
    place = template_probe.shared_length(one, other)
    start = max(0, place - _SHOWN)
    left, right = (renderer.decode(ids[start : place + _SHOWN]) for ids in (one, other))
    return f"at token {place}, {left!r} against {right!r}"
