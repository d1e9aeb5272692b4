"""A model behind an OpenAI-compatible server as Error Simulator: the authors' dynamic mode (arXiv:2601.15625, stage 2).

Training never waits for it without end: a batch has a deadline, a server that fails or overruns it is left alone for
some batches, and calls and tokens have a cap. Whatever is not answered gets the feedback of `rules` (see `guarded`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, model_validator

from fission_grpo.client.chat import ChatClient, ChatFault
from fission_grpo.client.endpoint import EndpointSettings
from fission_grpo.client.wire import ChatReply, ChatRequest
from fission_grpo.errors import ConfigError
from fission_grpo.settings import Settings
from fission_grpo.simulator.answer_cache import AnswerCache, CacheMode
from fission_grpo.simulator.base import Cost, Fallback
from fission_grpo.simulator.guarded import LeakGuardedSimulator
from fission_grpo.simulator.prompts import Candidate, NoCandidate, Prompt, PromptStyle, cleaned, prompt_messages
from fission_grpo.types import FinishReason

LONGEST_OPEN = 32
"""Batches."""
CHARACTERS_PER_TOKEN = 3
"""Where a server does not count, tokens are estimated from characters, rather too many than too few."""


class EndpointSimulatorSettings(Settings):
    """A simulator behind a server. The key comes from an environment variable and is never written down."""

    server: EndpointSettings
    max_tokens: int = Field(default=96, ge=8)
    """Longest diagnosis."""
    temperature: float = Field(default=0.0, ge=0)
    cache: str | None = None
    """Folder of answers; none keeps nothing."""
    mode: CacheMode = CacheMode.RECORD
    most_calls: int = Field(default=20_000, ge=0)
    """Requests to the server in this process; answers from the cache are free."""
    most_tokens: int = Field(default=20_000_000, ge=0)
    """Prompt and sampled tokens together."""
    deadline_seconds: float = Field(default=60.0, gt=0)
    """No request begins later than this after its batch did, and none may last longer than this, tries included."""

    @model_validator(mode="after")
    def _replay_needs_a_cache(self) -> EndpointSimulatorSettings:
        if self.mode is CacheMode.REPLAY and self.cache is None:
            raise ValueError("mode replay needs the folder of answers: set cache")
        return self


@dataclass(slots=True)
class EndpointCount:
    """What a server was asked for."""

    calls: int = 0
    tokens: int = 0
    replayed: int = 0
    """Answers that came from the cache."""
    faults: int = 0


class EndpointWriter:
    """Answers prompts through a server."""

    name = "endpoint"
    remote = True

    def __init__(self, settings: EndpointSimulatorSettings) -> None:
        """Asks nothing yet; `probe` does.

        Raises:
            ConfigError: the URL or the key cannot be used.
        """
        self.settings = settings
        self.count = EndpointCount()
        self._client = None if settings.mode is CacheMode.REPLAY else ChatClient(_hasty(settings))
        folder = settings.cache and Path(settings.cache).expanduser()
        self._cache = AnswerCache(folder, model=settings.server.model) if folder else None
        self._circuit_breaker = _CircuitBreaker()

    def probe(self) -> None:
        """Ask once, before anything else is spent; nothing to do in replay.

        Raises:
            ConfigError: no answer, for whatever reason.
        """
        if self._client is not None:
            hello = ({"role": "user", "content": "Reply with the word ok."},)
            temperature = self.settings.temperature
            self._client.probe(ChatRequest(messages=hello, max_tokens=8, temperature=temperature, seed=0))

    def write(self, prompts: Sequence[Prompt]) -> list[Candidate | NoCandidate]:
        """From the cache, else from the server, else not at all; never raises."""
        requests = [self._request(prompt) for prompt in prompts]
        replies: list[ChatReply | NoCandidate | None] = [
            self._cache.find(one) if self._cache else None for one in requests
        ]
        self.count.replayed += sum(reply is not None for reply in replies)
        open_ = [place for place, reply in enumerate(replies) if reply is None]
        asked = self._asked([requests[place] for place in open_])
        for place, reply in zip(open_, asked, strict=True):
            replies[place] = reply
        return [reply if isinstance(reply, NoCandidate) else _read(reply) for reply in replies if reply is not None]

    def _request(self, prompt: Prompt) -> ChatRequest:
        shown = prompt_messages(prompt, PromptStyle.INSTRUCTED)
        return ChatRequest(
            messages=shown.messages,
            max_tokens=self.settings.max_tokens,
            temperature=self.settings.temperature,
            seed=0,
        )

    def _asked(self, requests: Sequence[ChatRequest]) -> list[ChatReply | NoCandidate]:
        """Chunk by chunk, as many side by side as the server takes, until something speaks against going on."""
        if self._client is None:
            return [NoCandidate(reason=Fallback.NOT_RECORDED)] * len(requests)
        replies: list[ChatReply | NoCandidate] = []
        began = time.monotonic()
        circuit_open = bool(requests) and self._circuit_breaker.skips_batch()
        while len(replies) < len(requests):
            chunk = requests[len(replies) : len(replies) + self.settings.server.concurrency]
            late = time.monotonic() - began > self.settings.deadline_seconds
            if circuit_open or late:
                return [*replies, *[NoCandidate(reason=Fallback.CIRCUIT_OPEN)] * (len(requests) - len(replies))]
            affordable = chunk[: self._affordable(chunk)]
            if not affordable:
                return [*replies, *[NoCandidate(reason=Fallback.BUDGET)] * (len(requests) - len(replies))]
            answers = self._exchange(self._client, affordable)
            circuit_open = self._circuit_breaker.record(any(isinstance(answer, ChatReply) for answer in answers))
            replies += answers
        return replies

    def _exchange(self, client: ChatClient, requests: Sequence[ChatRequest]) -> list[ChatReply | NoCandidate]:
        """Ask the server, and keep what it says.

        A server that refuses for good (a key that ran out) stops no training: it is told apart by `probe`, before.
        """
        self.count.calls += len(requests)
        try:
            replies = client.ask(requests)
        except ConfigError as error:
            self.count.faults += len(requests)
            return [NoCandidate(reason=Fallback.UNANSWERED, detail=str(error))] * len(requests)
        return [self._noted(request, reply) for request, reply in zip(requests, replies, strict=True)]

    def _noted(self, request: ChatRequest, reply: ChatReply | ChatFault) -> ChatReply | NoCandidate:
        if isinstance(reply, ChatFault):
            self.count.faults += 1
            detail = f"{reply.trouble}: {reply.detail}"
            return NoCandidate(reason=Fallback.UNANSWERED, detail=detail, cost=Cost(seconds=reply.seconds))
        self.count.tokens += reply.prompt_tokens + reply.tokens or self._estimate(request)
        if self._cache is not None:
            with suppress(OSError):  # a full disk costs money later; it stops no training
                self._cache.keep(request, reply)
        return reply

    def _affordable(self, chunk: Sequence[ChatRequest]) -> int:
        """How many of these requests the budget allows, each at its most."""
        calls, tokens = self.settings.most_calls - self.count.calls, self.settings.most_tokens - self.count.tokens
        for place, request in enumerate(chunk):
            tokens -= self._estimate(request)
            if place >= calls or tokens < 0:
                return place
        return len(chunk)

    def _estimate(self, request: ChatRequest) -> int:
        return len(request.body("")) // CHARACTERS_PER_TOKEN + request.max_tokens


def endpoint_simulator(settings: EndpointSimulatorSettings) -> LeakGuardedSimulator:
    """The server, asked once, behind the leak guard, with the fallback below it.

    Raises:
        ConfigError: no answer, or settings that cannot be used.
    """
    writer = EndpointWriter(settings)
    writer.probe()
    return LeakGuardedSimulator(writer)


class _CircuitBreaker:
    """Leaves a server alone after batches in which it answered nothing: one batch, then two, four, ..."""

    def __init__(self) -> None:
        self._left = 0
        self._length = 0

    def skips_batch(self) -> bool:
        """Whether it is open for this batch, which is then one of those that are left out."""
        self._left, is_open = max(0, self._left - 1), self._left > 0
        return is_open

    def record(self, answered: bool) -> bool:
        """Take note of one exchange; returns whether to stop asking."""
        self._length = 0 if answered else min(LONGEST_OPEN, 2 * self._length or 1)
        self._left = self._length
        return not answered


def _hasty(settings: EndpointSimulatorSettings) -> EndpointSettings:
    """No try, and no wait between tries, longer than its part of the deadline."""
    server = settings.server
    part = settings.deadline_seconds / (2 * server.attempts)
    return server.model_copy(
        update={
            "total_seconds": min(server.total_seconds, part),
            "silence_seconds": min(server.silence_seconds, part),
            "connect_seconds": min(server.connect_seconds, part),
            "longest_wait_seconds": min(server.longest_wait_seconds, part),
        }
    )


def _read(reply: ChatReply) -> Candidate | NoCandidate:
    cost = Cost(prompt_tokens=reply.prompt_tokens, tokens=reply.tokens, seconds=reply.seconds)
    text = cleaned(reply.content)
    if reply.finish is FinishReason.LENGTH or not text:
        return NoCandidate(reason=Fallback.EMPTY, detail="nothing that can be used", cost=cost)
    return Candidate(text=text, cost=cost)
