"""A client of OpenAI-compatible servers: `POST {url}/chat/completions`, many requests side by side.

What fails for one request is a `ChatFault` after some tries; what fails for every request is a `ConfigError` at once
(see `endpoint`). A plain blocking call that threads may share; it cannot be called from within a running event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import httpx2

from fission_grpo.client.endpoint import EndpointClient, EndpointSettings, Question, Trouble
from fission_grpo.client.wire import ChatReply, ChatRequest, read_completion
from fission_grpo.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatFault:
    """There is no answer, after all tries."""

    trouble: Trouble
    """Of the last try."""
    detail: str
    """What was got, in one line."""
    attempts: int
    seconds: float


class ChatClient:
    """A server, and what is known of it: its address, its key, whether it has ever answered."""

    def __init__(self, settings: EndpointSettings) -> None:
        """Asks nothing yet; `probe` does.

        Raises:
            ConfigError: the URL or the key cannot be used.
        """
        self.settings = settings
        self._endpoint = EndpointClient(settings)
        self._answered = False

    @property
    def url(self) -> str:
        """Where the paths of the API begin."""
        return self._endpoint.url

    def probe(self, request: ChatRequest) -> ChatReply:
        """Ask once, before anything else is spent.

        Raises:
            ConfigError: no answer, for whatever reason.
        """
        (reply,) = self._run([request])
        if isinstance(reply, ChatFault):
            raise ConfigError(
                f"{self.url} does not answer for model {self.settings.model!r}: {reply.detail}; "
                f"expected a chat completion, tried {reply.attempts} time(s); {reply.trouble.remedy}"
            )
        return reply

    def ask(self, requests: Sequence[ChatRequest]) -> list[ChatReply | ChatFault]:
        """One reply for each request, in order.

        Raises:
            ConfigError: the server refuses every request: the key, the model, the address; or it has refused all of
                these and answered none before.
        """
        replies = self._run(requests)
        self._answered |= any(isinstance(reply, ChatReply) for reply in replies)
        refused = [r for r in replies if isinstance(r, ChatFault) and r.trouble is Trouble.REFUSED]
        if refused and len(refused) == len(replies) and not self._answered:
            raise ConfigError(f"{self.url} refuses every request: {refused[0].detail}; {Trouble.REFUSED.remedy}")
        return replies

    def _run(self, requests: Sequence[ChatRequest]) -> list[ChatReply | ChatFault]:
        return asyncio.run(self._ask_all(requests))

    async def _ask_all(self, requests: Sequence[ChatRequest]) -> list[ChatReply | ChatFault]:
        slots = asyncio.Semaphore(self.settings.concurrency)
        async with self._endpoint.connections() as http:
            return await asyncio.gather(*(self._ask(http, slots, request) for request in requests))

    async def _ask(
        self, http: httpx2.AsyncClient, slots: asyncio.Semaphore, request: ChatRequest
    ) -> ChatReply | ChatFault:
        """A request that waits keeps its slot: that is what eases the load on a busy server."""
        question = Question(
            path="/chat/completions",
            payload=request.body(self.settings.model),
            read=read_completion,
            expected="chat completion",
        )
        async with slots:
            exchange = await self._endpoint.ask(http, question, random=Random(request.seed))
        if exchange.answer is None:
            last = exchange.setbacks[-1]
            return ChatFault(
                trouble=last.trouble, detail=last.detail, attempts=exchange.attempts, seconds=exchange.seconds
            )
        return replace(exchange.answer, attempts=exchange.attempts, seconds=exchange.seconds)
