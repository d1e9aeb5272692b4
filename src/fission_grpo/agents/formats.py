"""Prompt modes: a dialogue becomes tokens, and sampled text becomes an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Protocol

from fission_grpo.agents.base import Answer, Conversation
from fission_grpo.agents.qwen_fc import Strictness, qwen_fc_prompt, read_qwen_fc
from fission_grpo.chat.format import ChatFormat
from fission_grpo.chat.parse import assistant_message, parse_message
from fission_grpo.errors import ConfigError
from fission_grpo.types import Tool

COMPACT_HEAD = "Functions that you can call:\n"
COMPACT_TAIL = (
    "\nTo call one, write its name and arguments as JSON between tags:\n"
    '<tool_call>\n{"name": "function_name", "arguments": {"argument": "value"}}\n</tool_call>\n'
    "Its answer comes back to you. When the work is done, reply in words."
)


class PromptMode(StrEnum):
    """How a local model is shown the dialogue."""

    OFFICIAL_QWEN_FC = "official-qwen-fc"
    """The official raw prompt of Qwen3's FC models; the only mode whose scores may be called official."""
    CHAT_TOOLS = "chat-tools"
    """The model's own chat template, with tools."""
    COMPACT = "compact"
    """Signatures with one line each in a system message, for models with little context."""


class PromptFormat(Protocol):
    """One prompt mode with one tokenizer."""

    def prompt(self, dialogue: Conversation) -> tuple[int, ...]:
        """Token ids up to the place where the assistant speaks.

        Raises:
            PromptError: the model has said something that cannot be written down again.
            ChatTemplateError: the chat template refuses this dialogue.
            ConfigError: the mode cannot show such tools.
        """
        ...

    def read(self, text: str) -> Answer:
        """What the text says; never raises."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Text of sampled ids, without the end-of-turn token."""
        ...


class QwenFCFormat:
    """`official-qwen-fc`: a tool result that spells a control token is one, as it is officially."""

    def __init__(self, chat: ChatFormat, strictness: Strictness = Strictness.OFFICIAL) -> None:
        self._chat = chat
        self._strictness = strictness

    def prompt(self, dialogue: Conversation) -> tuple[int, ...]:
        return tuple(self._chat.renderer.encode(qwen_fc_prompt(dialogue)))

    def read(self, text: str) -> Answer:
        return read_qwen_fc(text, self._strictness)

    def decode(self, ids: Iterable[int]) -> str:
        return self._chat.decode(tuple(ids))


class ChatToolsFormat:
    """`chat-tools`: a malformed message has no calls."""

    def __init__(self, chat: ChatFormat) -> None:
        self._chat = chat

    def prompt(self, dialogue: Conversation) -> tuple[int, ...]:
        return self._chat.prompt(dialogue.messages, dialogue.tools)

    def read(self, text: str) -> Answer:
        parsed = parse_message(text)
        calls = () if parsed.failures else parsed.calls
        return Answer(text=text, message=assistant_message(parsed, text), calls=calls, failures=parsed.failures)

    def decode(self, ids: Iterable[int]) -> str:
        return self._chat.decode(tuple(ids))


class CompactFormat(ChatToolsFormat):
    """`compact`: the template is used for messages, the functions stand in a system message of ours."""

    def prompt(self, dialogue: Conversation) -> tuple[int, ...]:
        system = {"role": "system", "content": compact_system(dialogue.tools)}
        return self._chat.prompt((system, *dialogue.messages), ())


def compact_system(tools: Iterable[Tool]) -> str:
    """One line a function, and how to call one."""
    return COMPACT_HEAD + "\n".join(map(signature, tools)) + COMPACT_TAIL


def signature(tool: Tool) -> str:
    """`name(needed: type, optional: type = default): first sentence of the description`."""
    function = tool["function"]
    schema = function.get("parameters") or {}
    required = schema.get("required", ())
    parameters = (_parameter(name, node, name in required) for name, node in schema.get("properties", {}).items())
    return f"{function['name']}({', '.join(parameters)}): {_summary(function.get('description', ''))}"


def make_format(mode: PromptMode, chat: ChatFormat, strictness: Strictness = Strictness.OFFICIAL) -> PromptFormat:
    """The prompt mode for a tokenizer.

    Raises:
        ConfigError: see `require_reader`.
    """
    require_reader(mode, strictness)
    return QwenFCFormat(chat, strictness) if mode is PromptMode.OFFICIAL_QWEN_FC else _OWN_FORMATS[mode](chat)


def require_reader(mode: PromptMode, strictness: Strictness) -> None:
    """Only the official mode can be read in two ways.

    Raises:
        ConfigError: a lenient reader was asked for where there is but one.
    """
    if strictness is not Strictness.OFFICIAL and mode is not PromptMode.OFFICIAL_QWEN_FC:
        raise ConfigError(f"mode {mode} has one reader; a lenient one exists for {PromptMode.OFFICIAL_QWEN_FC} only")


_OWN_FORMATS: Mapping[PromptMode, Callable[[ChatFormat], PromptFormat]] = MappingProxyType(
    {PromptMode.CHAT_TOOLS: ChatToolsFormat, PromptMode.COMPACT: CompactFormat}
)


def _parameter(name: str, schema: Mapping[str, Any], required: bool) -> str:
    kind = schema.get("type", "any")
    return f"{name}: {kind}" if required else f"{name}: {kind} = {schema.get('default')!r}"


def _summary(description: str) -> str:
    """BFCL's descriptions begin with the same sentence for all functions of a class."""
    own = description.rpartition("Tool description: ")[2].strip()
    return own.partition(". ")[0].rstrip(".")
