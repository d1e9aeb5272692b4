"""A model behind an OpenAI-compatible server as an agent.

Outwards, calls get ids that are unique in their dialogue, and arguments become JSON strings. Inwards, what the server
cut out of the model's text is written back between tags, so that one strict reader (`chat/parse.py`) judges both the
servers that parse calls and those that leave them in the content.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import httpx2

from fission_grpo.agents.base import AgentFault, Answer, Conversation, FaultKind
from fission_grpo.chat.parse import CLOSE, OPEN, assistant_message, call_id, parse_message
from fission_grpo.client.chat import ChatClient, ChatFault
from fission_grpo.client.endpoint import EndpointSettings, Trouble
from fission_grpo.client.wire import ChatReply, ChatRequest, WireCall
from fission_grpo.files import parse_json
from fission_grpo.seeds import derive
from fission_grpo.types import Message, Tool

_PROBE_TOOL: Tool = {
    "type": "function",
    "function": {
        "name": "ping",
        "description": "Check that the line is open.",
        "parameters": {"type": "object", "properties": {}},
    },
}
_PROBE = Conversation(messages=({"role": "user", "content": "Reply with the word ok."},), tools=(_PROBE_TOOL,))


class EndpointAgent:
    """Asks a server, which has its own chat template and mostly its own parser: never the official prompt.

    A server that removes special tokens from its text also removes `<tool_call>` of a model for which that is one, and
    the bare JSON that is left is a malformed call; `transformers serve` does so for families that it cannot parse.
    """

    def __init__(self, settings: EndpointSettings, *, max_tokens: int, temperature: float) -> None:
        """Probe the server with a small request of the same shape: tools, tokens, temperature, seed.

        Raises:
            ConfigError: the server does not answer, or refuses such requests.
        """
        self.width = settings.concurrency
        self._client = ChatClient(settings)
        self.name = f"{settings.model} at {httpx2.URL(self._client.url).netloc.decode()}"
        self._max_tokens = max_tokens
        self._temperature = temperature
        self._client.probe(self._request(_PROBE, seed=0))

    def answer(self, dialogues: Sequence[Conversation], *, seed: int) -> list[Answer | AgentFault]:
        """One answer for each dialogue, `width` of them at a time.

        Raises:
            ConfigError: the server refuses this kind of request for good.
        """
        requests = [self._request(dialogue, derive(seed, place)) for place, dialogue in enumerate(dialogues)]
        return [
            _fault(reply) if isinstance(reply, ChatFault) else read_reply(reply) for reply in self._client.ask(requests)
        ]

    def _request(self, dialogue: Conversation, seed: int) -> ChatRequest:
        return ChatRequest(
            messages=wire_messages(dialogue.messages),
            tools=dialogue.tools,
            max_tokens=self._max_tokens,
            temperature=self._temperature,
            seed=seed % 2**31,
        )


def wire_messages(messages: Iterable[Message]) -> tuple[Message, ...]:
    """Messages as servers take them.

    Call ids are numbered through the whole dialogue, because some servers refuse one that occurs twice, and keep the
    form of `call_id`, because others take no other.
    """
    wired: list[Message] = []
    renamed: dict[str, str] = {}
    count = 0
    for message in messages:
        own = {key: message[key] for key in ("role", "content", "name") if key in message}
        own["content"] = own.get("content") or ""
        if calls := message.get("tool_calls"):
            renamed = {call.get("id", call_id(place)): call_id(count + place) for place, call in enumerate(calls)}
            own["tool_calls"] = [_wire_call(call, call_id(count + place)) for place, call in enumerate(calls)]
            count += len(calls)
        if "tool_call_id" in message:
            own["tool_call_id"] = renamed.get(message["tool_call_id"], message["tool_call_id"])
        wired.append(own)
    return tuple(wired)


def read_reply(reply: ChatReply) -> Answer:
    """What the model said, by the rules of `chat/parse.py`: a malformed message has no calls to execute."""
    text = "\n".join(_spoken(reply))
    parsed = parse_message(text)
    return Answer(
        text=text,
        message=assistant_message(parsed, text),
        calls=() if parsed.failures else parsed.calls,
        failures=parsed.failures,
        finish=reply.finish,
        prompt_tokens=reply.prompt_tokens,
        tokens=reply.tokens,
        seconds=reply.seconds,
    )


def _spoken(reply: ChatReply) -> Iterator[str]:
    if reply.content:
        yield reply.content
    for call in reply.calls:
        name = json.dumps(call.name, ensure_ascii=False)
        yield f'{OPEN}\n{{"name": {name}, "arguments": {_arguments(call)}}}\n{CLOSE}'


def _arguments(call: WireCall) -> str:
    """Arguments as JSON: the server's own text where it is some.

    Other text becomes a JSON string, which can end no block and which the reader reports as no object. Nothing at all
    is what several servers make of no arguments.
    """
    if not isinstance(call.arguments, str):
        return json.dumps(call.arguments or {}, ensure_ascii=False)
    if not call.arguments.strip():
        return "{}"
    try:
        parse_json(call.arguments)
    except ValueError:
        return json.dumps(call.arguments, ensure_ascii=False)
    return call.arguments


def _wire_call(call: Mapping[str, Any], name: str) -> dict[str, Any]:
    function = call["function"]
    arguments = function.get("arguments") or {}
    spelled = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False, default=dict)
    return {"id": name, "type": "function", "function": {"name": function["name"], "arguments": spelled}}


def _fault(fault: ChatFault) -> AgentFault:
    kind = FaultKind.DIALOGUE if fault.trouble is Trouble.TOO_LONG else FaultKind.MACHINERY
    return AgentFault(reason=f"{fault.trouble}: {fault.detail} ({fault.attempts} tries)", kind=kind)
