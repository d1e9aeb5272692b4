"""The part of vLLM's completions protocol that is spoken here: token ids in, sampled ids and log-probabilities out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from fission_grpo.client.wire import first_problem
from fission_grpo.types import FinishReason

_UNCHANGED: Mapping[str, Any] = {
    "top_p": 1.0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
"""Whatever else could change what is sampled: left out, each is what the model's `generation_config.json` says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRequest:
    """One context to be continued."""

    prompt: tuple[int, ...] | str
    """A text is tokenized by the server."""
    max_tokens: int
    temperature: float
    top_k: int
    """0 keeps the whole vocabulary."""
    stop_id: int | None = None
    """The one token after which sampling stops: the model's own end tokens count for nothing beside it."""
    seed: int | None = None

    def body(self, model: str) -> bytes:
        """As JSON."""
        fields: dict[str, Any] = {
            "model": model,
            "prompt": self.prompt,
            "add_special_tokens": False,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_k": self.top_k,
            **_UNCHANGED,
            "ignore_eos": True,
            "stop_token_ids": [] if self.stop_id is None else [self.stop_id],
            "logprobs": 0,
            "return_token_ids": True,
        }
        if self.seed is not None:
            fields["seed"] = self.seed
        return json.dumps(fields).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledTokens:
    """A well-formed completion."""

    prompt_ids: tuple[int, ...]
    """What the server read."""
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """One for each of `ids`, in nats."""
    finish: FinishReason


def read_sampled_tokens(body: bytes) -> SampledTokens:
    """The first choice of a completion.

    Raises:
        ValueError: it is none, or does not say its tokens; the message says where it departs from one.
    """
    try:
        choice = _Completion.model_validate_json(body).choices[0]
    except ValidationError as error:
        raise ValueError(first_problem(error)) from error
    return SampledTokens(
        prompt_ids=choice.prompt_token_ids,
        ids=choice.token_ids,
        logprobs=choice.logprobs.token_logprobs,
        finish=FinishReason(choice.finish_reason),
    )


def read_served_models(body: bytes) -> dict[str, int]:
    """What `GET /models` lists: each model, and the most tokens of a context and its completion.

    Raises:
        ValueError: it is no such list of vLLM's.
    """
    try:
        return {model.id: model.max_model_len for model in _Models.model_validate_json(body).data}
    except ValidationError as error:
        raise ValueError(first_problem(error)) from error


class _Logprobs(BaseModel):
    token_logprobs: tuple[Annotated[float, Field(allow_inf_nan=False)], ...]


class _Choice(BaseModel):
    prompt_token_ids: tuple[int, ...]
    token_ids: tuple[int, ...] = Field(min_length=1)
    logprobs: _Logprobs
    finish_reason: Literal["stop", "length"]

    @model_validator(mode="after")
    def _aligned(self) -> _Choice:
        if len(self.token_ids) != len(self.logprobs.token_logprobs):
            raise ValueError(f"{len(self.token_ids)} tokens, {len(self.logprobs.token_logprobs)} log-probabilities")
        return self


class _Completion(BaseModel):
    choices: list[_Choice] = Field(min_length=1)


class _Served(BaseModel):
    id: str
    max_model_len: int


class _Models(BaseModel):
    data: list[_Served] = Field(min_length=1)
