"""A real HTTP server on this machine that does to each request what a test tells it."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain, repeat
from typing import Any, TypeAlias

MODELS = {"data": [{"id": "the-model"}, {"id": "another"}]}
USAGE = {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}


def completion(content: str | None = "ok", *, finish: str = "stop", **message: Any) -> dict[str, Any]:
    """The body of a chat completion."""
    said = {"role": "assistant", "content": content, **message}
    return {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": said, "finish_reason": finish}],
        "usage": USAGE,
    }


def choice(prompt: Any, ids: list[int], *, finish: str = "stop", **changes: Any) -> dict[str, Any]:
    """The body of a completion of token ids, as vLLM writes it."""
    said = {
        "finish_reason": finish,
        "prompt_token_ids": list(prompt),
        "token_ids": ids,
        "logprobs": {"token_logprobs": [-0.25] * len(ids)},
    }
    return {"choices": [{**said, **changes}]}


@dataclass(frozen=True)
class Received:
    """One request as the server saw it."""

    path: str
    headers: Mapping[str, str]
    body: Any
    at: float
    """Seconds on the monotonic clock."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Scripted
    asked: Any
    """The body of the request."""

    def do_POST(self) -> None:
        self.asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        behaviour = self.server.note(Received(self.path, dict(self.headers), self.asked, time.monotonic()))
        behaviour(self)

    def do_GET(self) -> None:
        answer(200, self.server.models)(self)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


Behaviour: TypeAlias = Callable[[Handler], None]


class Scripted(ThreadingHTTPServer):
    """One behaviour for each request, the last one for all that follow."""

    daemon_threads = True

    def __init__(self, *behaviours: Behaviour, models: Any) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.models = models
        self.received: list[Received] = []
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._behaviours = chain(behaviours, repeat(behaviours[-1]))

    def note(self, received: Received) -> Behaviour:
        with self._lock:
            self.received.append(received)
            return next(self._behaviours)

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away are what these tests are about."""


@contextmanager
def serving(*behaviours: Behaviour, models: Any = MODELS) -> Iterator[Scripted]:
    """The server, running; `models` is what it lists."""
    server = Scripted(*behaviours, models=models)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


def answer(status: int, body: Any, **headers: str) -> Behaviour:
    """An ordinary HTTP answer; a body that is not bytes goes out as JSON. `Retry_After` becomes `Retry-After`."""

    def behave(handler: Handler) -> None:
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(payload)))
        handler.end_headers()
        handler.wfile.write(payload)

    return behave


def good(content: str | None = "ok", **parts: Any) -> Behaviour:
    return answer(200, completion(content, **parts))


def html(handler: Handler) -> None:
    answer(200, b"<!DOCTYPE html><html><body>Welcome to nginx!</body></html>", Content_Type="text/html")(handler)


def hang(handler: Handler) -> None:
    """Take the request and say nothing, for as long as the server lives."""
    handler.server.closing.wait()
    handler.close_connection = True


def reset(handler: Handler) -> None:
    """Half an answer, then RST."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True


def hang_up(handler: Handler) -> None:
    """Close without a word."""
    handler.close_connection = True


def trickle(handler: Handler) -> None:
    """One byte at a time, never silent for long, never done."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    _drip(handler, b" ")


def trickle_header(handler: Handler) -> None:
    """The same, before the headers have ended."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Padding: ")
    _drip(handler, b"x")


def _drip(handler: Handler, byte: bytes) -> None:
    while not handler.server.closing.wait(0.05):
        handler.wfile.write(byte)


def endless(handler: Handler) -> None:
    """Ten megabytes in chunks, without saying how many there will be."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(160):
        handler.wfile.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
    handler.wfile.write(b"0\r\n\r\n")
