"""An OpenAI-compatible server: its address, its key, and patience with it.

Whatever a server may do to one request (refuse the connection, hang, trickle, reset, answer 429, 5xx, HTML, half a JSON
or ten megabytes) becomes a `Setback` after some tries. What it will do to every request (no such model, no
authorisation, no credit) is a `ConfigError` at once.

All of it stands in an event loop, because only there can a total time-out interrupt everything, headers that trickle
included. Callers are plain blocking functions that run one; they cannot be called from within a running event loop.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from http import HTTPStatus
from random import Random
from types import MappingProxyType
from typing import Generic, TypeVar

import httpx2
from pydantic import Field, SecretStr

from fission_grpo.client.wire import error_text, read_model_names
from fission_grpo.errors import ConfigError
from fission_grpo.settings import Settings

AnswerT = TypeVar("AnswerT")

_LIMITS = httpx2.Limits(max_connections=100, max_keepalive_connections=20)
"""As httpx2 has them where none are given."""
_EXCERPT = 240
_LISTED = 8


class EndpointSettings(Settings):
    """Which server, and how much patience with it. All defaults are ours."""

    url: str
    """As the OpenAI SDKs take it: `https://api.openai.com/v1`. An address without a path gets `/v1`."""
    model: str
    """Sent with every request. vLLM and OpenAI refuse an unknown one; llama.cpp ignores it; `transformers serve` loads
    whatever it names, unless it was started for one model."""
    api_key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds the key; if it is unset none is sent. The key is never written down."""
    concurrency: int = Field(default=8, ge=1)
    """Requests under way at a time."""
    connect_seconds: float = Field(default=10.0, gt=0)
    silence_seconds: float = Field(default=600.0, gt=0)
    """Longest wait for the next byte; a server is silent until its model has finished."""
    total_seconds: float = Field(default=600.0, gt=0)
    """Longest one try may last, from connecting to the last byte."""
    attempts: int = Field(default=5, ge=1)
    """Tries per request."""
    backoff_seconds: float = Field(default=1.0, ge=0)
    """Before the second try; twice as long before each further one, less up to half of it at random."""
    longest_wait_seconds: float = Field(default=60.0, ge=0)
    """Bound on every wait between tries, also on one that the server asks for."""
    body_bytes: int = Field(default=4 * 2**20, ge=1)
    """Largest answer that is read; of a larger one no more is taken in."""


class Trouble(StrEnum):
    """What a server did instead of answering."""

    UNREACHABLE = "unreachable"
    """No connection."""
    TIMEOUT = "timeout"
    """Silence, or a try that lasted too long."""
    BROKEN = "broken"
    """The connection ended in the middle."""
    BUSY = "busy"
    """408, 409, 425, 429."""
    SERVER = "server"
    """5xx."""
    GARBAGE = "garbage"
    """Status 200, and not what was asked for: HTML, no JSON, missing fields."""
    ELSEWHERE = "elsewhere"
    """3xx: never followed, since the key would go along; tried again, since proxies do so for a moment."""
    OVERSIZED = "oversized"
    REFUSED = "refused"
    """Another 4xx: this request will never be taken; not tried again."""
    TOO_LONG = "too_long"
    """A 4xx that complains about the context window; not tried again."""

    @property
    def remedy(self) -> str:
        """What a person can do about it."""
        return _REMEDIES[self]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question(Generic[AnswerT]):
    """One request, and how its answer is read."""

    path: str
    """Behind the base URL: `/chat/completions`."""
    payload: bytes | None
    """JSON to be posted; None gets."""
    read: Callable[[bytes], AnswerT]
    """Raises `ValueError` on a body that is no answer."""
    expected: str
    """What the answer is called in messages: `chat completion`."""
    final: frozenset[Trouble] = frozenset()
    """Troubles after which it is not tried again, beside those that no further try can mend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setback:
    """One try that failed."""

    trouble: Trouble
    detail: str
    """What was got, in one line."""
    retry_after: float = 0.0
    """Seconds that the server asks for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange(Generic[AnswerT]):
    """All tries of one question."""

    answer: AnswerT | None
    """None: every try failed."""
    setbacks: tuple[Setback, ...]
    """The tries that failed, in order."""
    seconds: float
    """From the first try to the end, waits included."""

    @property
    def attempts(self) -> int:
        return len(self.setbacks) + (self.answer is not None)


class EndpointClient:
    """A server, as its settings describe it."""

    def __init__(self, settings: EndpointSettings) -> None:
        """Asks nothing yet.

        Raises:
            ConfigError: the URL or the key cannot be used.
        """
        self.settings = settings
        self.url = _base_url(settings.url)
        self._key = _key(settings.api_key_env)
        self._tls = httpx2.create_ssl_context()

    def connections(self, limits: httpx2.Limits = _LIMITS) -> httpx2.AsyncClient:
        """A pool of connections, to be used as a context manager.

        Raises:
            ConfigError: the proxy of this environment cannot be used.
        """
        # Uncompressed, so that the size which is read is the size which is held.
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key.get_secret_value()}"
        timeout = httpx2.Timeout(self.settings.silence_seconds, connect=self.settings.connect_seconds, pool=None)
        try:
            return httpx2.AsyncClient(headers=headers, timeout=timeout, verify=self._tls, limits=limits)
        except (ValueError, ImportError) as error:
            raise ConfigError(f"the proxy of this environment cannot be used: {error}; correct ALL_PROXY") from error

    async def ask(self, http: httpx2.AsyncClient, question: Question[AnswerT], *, random: Random) -> Exchange[AnswerT]:
        """Tries until an answer, a setback that is final, or the last attempt.

        Args:
            random: thins out the waits.
        Raises:
            ConfigError: the server refuses every request: the key, the model, the address.
        """
        began, setbacks, said = time.monotonic(), list[Setback](), await self._try(http, question)
        while isinstance(said, Setback):
            setbacks.append(said)
            if said.trouble in _FINAL | question.final or len(setbacks) == self.settings.attempts:
                break
            await asyncio.sleep(self._wait(len(setbacks), said.retry_after, random))
            said = await self._try(http, question)
        answer = None if isinstance(said, Setback) else said
        return Exchange(answer=answer, setbacks=tuple(setbacks), seconds=time.monotonic() - began)

    def _wait(self, attempt: int, retry_after: float, random: Random) -> float:
        """Exponential, thinned out at random so that requests which failed together do not return together."""
        backoff = self.settings.backoff_seconds * 2.0 ** (attempt - 1) * random.uniform(0.5, 1.0)
        return min(self.settings.longest_wait_seconds, max(backoff, retry_after))

    async def _try(self, http: httpx2.AsyncClient, question: Question[AnswerT]) -> AnswerT | Setback:
        try:
            async with asyncio.timeout(self.settings.total_seconds):
                return await self._exchange(http, question)
        except TimeoutError:
            return Setback(
                trouble=Trouble.TIMEOUT, detail=f"no complete answer within {self.settings.total_seconds:g} s"
            )
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError) as error:
            return Setback(trouble=Trouble.UNREACHABLE, detail=f"no connection ({_cause(error)})")
        except httpx2.TimeoutException:
            return Setback(trouble=Trouble.TIMEOUT, detail=f"silence for {self.settings.silence_seconds:g} s")
        except httpx2.TransportError as error:
            return Setback(trouble=Trouble.BROKEN, detail=f"the connection broke ({_cause(error)})")

    async def _exchange(self, http: httpx2.AsyncClient, question: Question[AnswerT]) -> AnswerT | Setback:
        method = "GET" if question.payload is None else "POST"
        async with http.stream(method, f"{self.url}{question.path}", content=question.payload) as response:
            body = await self._body(response)
        if body is None:
            return Setback(trouble=Trouble.OVERSIZED, detail=f"an answer of more than {self.settings.body_bytes} bytes")
        if not response.is_success:
            return await self._refusal(http, question.path, response, _excerpt(body))
        try:
            return question.read(body)
        except ValueError as error:
            return Setback(trouble=Trouble.GARBAGE, detail=f"no {question.expected} ({error}) in {_excerpt(body)!r}")

    async def _refusal(self, http: httpx2.AsyncClient, path: str, response: httpx2.Response, said: str) -> Setback:
        """What a status other than 2xx means for this request, or for all.

        Raises:
            ConfigError: it means all.
        """
        status = response.status_code
        detail = f"status {status}" + (f", {said!r}" if said else "")
        if remedy := self._remedy(status, said, path):
            offered = await self._offered(http) if status == HTTPStatus.NOT_FOUND else ""
            raise ConfigError(f"{self.url} refuses model {self.settings.model!r}: {detail}; {remedy}{offered}")
        return Setback(trouble=_trouble(status, said), detail=detail, retry_after=_retry_after(response.headers))

    def _remedy(self, status: int, said: str, path: str) -> str:
        """What to do about a status that every request will get; empty for any other."""
        variable = self.settings.api_key_env
        if status == HTTPStatus.PAYMENT_REQUIRED or "insufficient_quota" in said:
            return "there is no credit left: add some, or use another server"
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            return (
                f"check the key in {variable}" if self._key else f"put a key into the environment variable {variable}"
            )
        if status in (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED):
            return f"check the model's name and the URL, which ends where {path} begins"
        return ""

    async def _offered(self, http: httpx2.AsyncClient) -> str:
        """The models that the server lists, if it does, for an error message."""
        try:
            async with asyncio.timeout(self.settings.connect_seconds), http.stream("GET", f"{self.url}/models") as got:
                names = read_model_names(await self._body(got) or b"")
        except (TimeoutError, httpx2.TransportError, ValueError):
            return ""
        return f"; it offers {', '.join(map(repr, names[:_LISTED]))}" if names else ""

    async def _body(self, response: httpx2.Response) -> bytes | None:
        """The body without the key, which some servers repeat; None as soon as it is larger than allowed."""
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > self.settings.body_bytes:
                return None
        key = None if self._key is None else self._key.get_secret_value().encode()
        return bytes(body.replace(key, b"[key]") if key else body)


_FINAL = frozenset({Trouble.REFUSED, Trouble.TOO_LONG})
_BUSY = frozenset({408, 409, 425, 429})
_TOO_LONG = re.compile(r"context.{0,3}(length|window|size)|maximum context|(prompt|input) is too long", re.IGNORECASE)
_NO_SERVER = "start the server, or correct its URL"
_OTHER_SERVER = "is this the URL of an OpenAI-compatible server?"
_REMEDIES: Mapping[Trouble, str] = MappingProxyType(
    {
        Trouble.UNREACHABLE: _NO_SERVER,
        Trouble.TIMEOUT: "wait until its model is loaded, or allow more time",
        Trouble.BROKEN: _NO_SERVER,
        Trouble.BUSY: "try again later, or with less concurrency",
        Trouble.SERVER: "see the server's own log; does it know this model?",
        Trouble.GARBAGE: _OTHER_SERVER,
        Trouble.ELSEWHERE: "check the model's name and the URL, which ends where /chat/completions begins",
        Trouble.OVERSIZED: _OTHER_SERVER,
        Trouble.REFUSED: "change what it complains about: the model's name, the tokens asked for, the server's options",
        Trouble.TOO_LONG: "ask for fewer tokens, or start the server with a larger context window",
    }
)


def _trouble(status: int, said: str) -> Trouble:
    if status in _BUSY:
        return Trouble.BUSY
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Trouble.SERVER
    if status < HTTPStatus.BAD_REQUEST:
        return Trouble.ELSEWHERE
    return Trouble.TOO_LONG if _TOO_LONG.search(said) else Trouble.REFUSED


def _excerpt(body: bytes) -> str:
    """What a body says, in one line."""
    return error_text(body)[:_EXCERPT]


def _retry_after(headers: httpx2.Headers) -> float:
    """Seconds to wait, from either form of the header; 0 without a usable one."""
    asked = headers.get("retry-after", "")
    try:
        seconds = float(asked)
    except ValueError:
        seconds = _until(asked)
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0


def _until(date: str) -> float:
    try:
        moment = parsedate_to_datetime(date)
    except ValueError:
        return 0.0
    return (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()


def _cause(error: Exception) -> str:
    return str(error) or type(error).__name__


def _base_url(url: str) -> str:
    try:
        parsed = httpx2.URL(url.strip())
    except httpx2.InvalidURL as error:
        raise ConfigError(f"endpoint {url!r} is no URL: {error}; give one such as http://localhost:8000/v1") from error
    if parsed.userinfo:
        raise ConfigError("the endpoint's URL holds a password; put the key into an environment variable instead")
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.query or parsed.fragment:
        raise ConfigError(f"endpoint {url!r} cannot be used; expected a URL such as http://localhost:8000/v1")
    base = str(parsed).rstrip("/").removesuffix("/chat/completions")
    return base if parsed.path.strip("/") else f"{base}/v1"


def _key(variable: str) -> SecretStr | None:
    key = os.environ.get(variable, "").strip()
    if not key:
        return None
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(f"the key in {variable} cannot be one: expected printable ASCII without spaces; set it anew")
    return SecretStr(key)
