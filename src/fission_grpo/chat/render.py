"""Messages -> text -> token ids by a tokenizer's own chat template, safe against text that looks like control tokens.

A tool result may hold `<|im_end|>`, by accident or on purpose. Tokenised as it stands it would end the turn and let a
web page speak as the user. So control tokens are known by who wrote them: in text that the *template* writes they are
tokens, in text that it only *passes on* they are characters. To tell the two apart after rendering, a private-use
character that occurs nowhere else is set inside every look-alike before rendering (`<` + mark + `|im_end|>`); the
rendered text is cut at the marks and the pieces are tokenised one by one. No piece holds the whole token, the mark is
gone, and text without look-alikes, which is nearly all text, is tokenised in one piece, exactly as always.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from fission_grpo.chat.parse import render_call
from fission_grpo.errors import ConfigError
from fission_grpo.files import parse_json
from fission_grpo.types import Message, Tool, ToolCall

_RENDER_ERRORS = (TemplateError, TypeError, ValueError, KeyError, AttributeError)
"""What a template raises on messages that it was not written for."""
_PRIVATE_USE = range(0xE000, 0xF900)
_NEVER = re.compile(r"(?!)")


class ChatTemplateError(ConfigError):
    """A chat template that cannot carry a tool dialogue; says why, and what to do."""

    def __init__(self, why: str, remedy: str) -> None:
        super().__init__(f"{why}. {remedy}")
        self.why = why
        self.remedy = remedy

    def __reduce__(self) -> tuple[type[ChatTemplateError], tuple[str, str]]:
        return (type(self), (self.why, self.remedy))


class Renderer:
    """One tokenizer and its template, as two functions: `text` and `ids`."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Take the tokenizer as it is.

        Raises:
            ChatTemplateError: it has no chat template.
        """
        if not tokenizer.chat_template:
            raise ChatTemplateError(
                "The tokenizer has no chat template",
                "Use an instruction-tuned model, or `--chat-template hermes` if this one knows ChatML.",
            )
        self.tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.items()
        tokens = {id_: token for id_, token in added if len(token.content) > 1 and not token.content.isspace()}
        self.control_ids: Mapping[str, int] = {token.content: id_ for id_, token in tokens.items()}
        """Every added token: those that structure a chat, and those like `<tool_call>` and `<think>`."""
        self.control = _any_of(list(self.control_ids))
        self._special = _any_of([token.content for token in tokens.values() if token.special])

    def text(self, messages: Sequence[Message], tools: Sequence[Tool], *, prompt: bool) -> str:
        """The rendering, with a generation prompt at its end if `prompt`.

        Raises:
            ChatTemplateError: the template refuses these messages.
        """
        return self._apply([_plain_message(message) for message in messages], _plain(tools), prompt)

    def ids(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool],
        *,
        prompt: bool,
        cut: Callable[[str], str] = str,
    ) -> list[int]:
        """Token ids of the rendering, or of the part of it that `cut` keeps.

        Raises:
            ChatTemplateError: the template refuses these messages.
        """
        dialogue, offered = [_plain_message(message) for message in messages], _plain(tools)
        mark = self._free_mark((dialogue, offered))
        shielded = [self._shield_message(message, mark) for message in dialogue]
        text = cut(self._apply(shielded, _shield(offered, self.control, mark), prompt))
        return [token for piece in _split(text, mark) for token in self.encode(piece)]

    def encode(self, text: str) -> list[int]:
        """Token ids of text by the template: control tokens in it are tokens, half surrogate pairs question marks."""
        text = text.encode(errors="replace").decode()
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] if text else []
        return ids

    def said(self, prose: str, calls: Sequence[ToolCall]) -> list[int]:
        """Token ids of an assistant's words and calls as a policy writes them, without the end of its turn.

        Raises:
            ValueError: a call holds a number that JSON cannot (NaN, infinity).
        """
        values = [[call.name, _plain(call.arguments)] for call in calls]
        mark = self._free_mark([prose, *values])
        shielded = [
            render_call(ToolCall(name=name, arguments=arguments))
            for name, arguments in _shield(values, self.control, mark)
        ]
        text = "\n".join(filter(None, [_shield(prose, self._special, mark), *shielded]))
        return [token for piece in _split(text, mark) for token in self.encode(piece)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids, control tokens included."""
        text = self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return str(text)

    def _apply(self, messages: list[dict[str, Any]], tools: Any, prompt: bool) -> str:
        try:
            rendered = self.tokenizer.apply_chat_template(
                messages, tools=tools or None, tokenize=False, add_generation_prompt=prompt
            )
        except _RENDER_ERRORS as error:
            raise ChatTemplateError(
                f"The chat template refuses a dialogue with tools: {type(error).__name__}: {error}",
                "Use a template with tool support, for instance `--chat-template hermes`.",
            ) from error
        return str(rendered)

    def _free_mark(self, values: Any) -> str:
        """A character for `_shield`, or none where nothing needs a shield."""
        texts = list(_strings(values))
        if not any(self.control.search(text) for text in texts):
            return ""
        taken = set("".join(texts)).union(str(self.tokenizer.chat_template))
        return next(chr(code) for code in _PRIVATE_USE if chr(code) not in taken)

    def _shield_message(self, message: dict[str, Any], mark: str) -> dict[str, Any]:
        """An assistant's own prose keeps the model's vocabulary (`<think>`), never the tokens that structure a chat."""
        if message.get("role") != "assistant":
            return {key: _shield(value, self.control, mark) for key, value in message.items()}
        rest = {key: _shield(value, self.control, mark) for key, value in message.items() if key != "content"}
        return {"content": _shield(message["content"], self._special, mark), **rest}


def _any_of(contents: Sequence[str]) -> re.Pattern[str]:
    longest_first = sorted(contents, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if contents else _NEVER


def _shield(value: Any, control: re.Pattern[str], mark: str) -> Any:
    """Set the mark behind the first character of every look-alike, overlapping ones too."""
    if not mark:
        return value
    if isinstance(value, str):
        return re.sub(f"(?=({control.pattern}))(.)", lambda found: found[2] + mark, value, flags=re.DOTALL)
    if isinstance(value, dict):
        return {_shield(key, control, mark): _shield(item, control, mark) for key, item in value.items()}
    if isinstance(value, list):
        return [_shield(item, control, mark) for item in value]
    return value


def _split(text: str, mark: str) -> list[str]:
    """Pieces between the marks, which a template may have written as JSON escapes."""
    return re.split(f"{mark}|\\\\u{ord(mark):04x}", text) if mark else [text]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for pair in value.items() for item in pair for text in _strings(item))
    elif isinstance(value, list | tuple):
        yield from (text for item in value for text in _strings(item))


def _plain_message(message: Message) -> dict[str, Any]:
    """What templates expect: `content` is there, arguments are objects (OpenAI's API writes them as JSON text)."""
    plain: dict[str, Any] = {**_plain(message), "content": _plain(message.get("content")) or ""}
    for call in plain.get("tool_calls") or ():
        function = call["function"]
        if isinstance(function.get("arguments"), str):
            function["arguments"] = _object(function["arguments"])
    return plain


def _object(arguments: str) -> Any:
    """Arguments as an object, if that is what the text holds."""
    try:
        return parse_json(arguments)
    except ValueError:
        return arguments


def _plain(value: Any) -> Any:
    """Fresh dicts and lists: templates test for these types, and some change what they get."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
