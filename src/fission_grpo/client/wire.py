"""The part of OpenAI's chat-completions protocol that is spoken here: a request, a reply, an error."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Field, ValidationError, model_validator

from fission_grpo.types import FinishReason, Message, Tool


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """One dialogue to be continued."""

    messages: tuple[Message, ...]
    """In the wire format: arguments of calls are JSON strings."""
    max_tokens: int
    temperature: float
    seed: int
    """Of the server's sampling, where it honours one; in [0, 2^31)."""
    tools: tuple[Tool, ...] = ()

    def body(self, model: str) -> bytes:
        """As JSON; no `tools` where there are none, because servers refuse an empty list."""
        fields: dict[str, Any] = {
            "model": model,
            "messages": self.messages,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "seed": self.seed,
        }
        if self.tools:
            fields["tools"] = self.tools
        return json.dumps(fields, default=dict).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class WireCall:
    """A tool call as the server cut it out, not yet judged."""

    name: str
    arguments: str | dict[str, Any] | None
    """JSON, by the protocol; some servers send the object itself, or nothing for a function without parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatReply:
    """A well-formed chat completion."""

    content: str
    calls: tuple[WireCall, ...]
    finish: FinishReason
    prompt_tokens: int
    """0 where the server does not say."""
    tokens: int
    """Sampled tokens; 0 where the server does not say."""
    attempts: int = 1
    seconds: float = 0.0
    """From the first try to the end, waits included."""


def read_completion(body: bytes) -> ChatReply:
    """The first choice of a chat completion.

    Raises:
        ValueError: it is none; the message says where it departs from one.
    """
    try:
        completion = _Completion.model_validate_json(body)
    except ValidationError as error:
        raise ValueError(first_problem(error)) from error
    choice = completion.choices[0]
    calls = [call.function for call in choice.message.tool_calls or ()]
    return ChatReply(
        content=choice.message.content or "",
        calls=tuple(WireCall(name=call.name, arguments=call.arguments) for call in calls),
        finish=FinishReason.LENGTH if choice.finish_reason == "length" else FinishReason.STOP,
        prompt_tokens=completion.count("prompt_tokens"),
        tokens=completion.count("completion_tokens"),
    )


def read_model_names(body: bytes) -> tuple[str, ...]:
    """What `GET /models` lists.

    Raises:
        ValueError: it is no such list.
    """
    try:
        return tuple(model.id for model in _ModelList.model_validate_json(body).data)
    except ValidationError as error:
        raise ValueError(first_problem(error)) from error


def error_text(body: bytes) -> str:
    """What a server says about a failure, its code included, on one line; the body itself where it has no such form."""
    text = body.decode(errors="replace")
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return _one_line(text)
    error = said.get("error", said) if isinstance(said, dict) else said
    if isinstance(error, dict):
        error = ": ".join(str(error[name]) for name in ("code", "message", "detail") if error.get(name)) or text
    return _one_line(str(error))


def first_problem(error: ValidationError) -> str:
    """Where a body departs from what it should be, and how, on one line."""
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'body'}: {first['msg']}"


class _Function(BaseModel):
    name: str
    arguments: str | dict[str, Any] | None = None


class _Call(BaseModel):
    function: _Function


class _Message(BaseModel):
    content: str | None = None
    tool_calls: list[_Call] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> _Message:
        if not self.model_fields_set:
            raise ValueError("neither content nor tool_calls")
        return self


class _Choice(BaseModel):
    message: _Message
    finish_reason: Any = None


class _Completion(BaseModel):
    choices: list[_Choice] = Field(min_length=1)
    usage: Any = None
    """A courtesy: a wrong one leaves the answer good."""

    def count(self, name: str) -> int:
        count = self.usage.get(name) if isinstance(self.usage, dict) else None
        return count if type(count) is int and count > 0 else 0


class _Model(BaseModel):
    id: str


class _ModelList(BaseModel):
    data: list[_Model]


def _one_line(text: str) -> str:
    return " ".join(text.split())
