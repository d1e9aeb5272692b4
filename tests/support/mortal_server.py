"""A vLLM server, as far as its protocol goes, that dies by SIGKILL at the request that a test names."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from random import Random
from typing import Any

from scripted_server import Handler, answer, choice, serving
from tiny_trl import tokenizer

from fission_grpo.client.endpoint import EndpointSettings


@dataclass(frozen=True)
class Mortal:
    """A server in a process of its own."""

    process: Any
    connection: Connection
    url: str

    @property
    def settings(self) -> EndpointSettings:
        return EndpointSettings(url=self.url, model="the-model", attempts=2, backoff_seconds=0.01, concurrency=4)

    def die_at(self, request: int) -> None:
        """Get no further than the given request from now on, which is the first if it is 1.

        Returns when the server knows.
        """
        self.connection.send(request)
        self.connection.recv()

    def exit_code(self) -> int:
        """Of its process, which has ended or is about to."""
        self.process.join(60)
        return int(self.process.exitcode)


@contextmanager
def mortal_server(answers: Sequence[str]) -> Iterator[Mortal]:
    """Serve until the end of the `with` block, or until it dies.

    Args:
        answers: what may be said; which one is drawn by the seed and the context, so that a dialogue goes the same way
            on any such server.
    """
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, answers), daemon=True)
    process.start()
    try:
        yield Mortal(process=process, connection=ours, url=ours.recv())
    finally:
        process.kill()
        process.join()


def _serve(connection: Connection, answers: Sequence[str]) -> None:
    said = [tokenizer()(f"{one}<|im_end|>")["input_ids"] for one in answers]
    lock, left = threading.Lock(), -1

    def behave(handler: Handler) -> None:
        nonlocal left
        with lock:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        asked = handler.asked
        if isinstance(asked["prompt"], str):  # whether this is the right server
            ids = tokenizer()(asked["prompt"])["input_ids"]
            answer(200, choice(ids, [5] * 8, finish="length", logprobs={"token_logprobs": [0.0] * 8}))(handler)
            return
        drawn = Random(repr((asked["seed"], asked["prompt"]))).choice(said)
        answer(200, choice(asked["prompt"], drawn))(handler)

    with serving(behave, models={"data": [{"id": "the-model", "max_model_len": 4096}]}) as server:
        connection.send(server.url)
        while True:
            left = connection.recv()
            connection.send(True)
