"""Answers of a server on disk, found again by the content of the request: nothing is paid for twice.

One small JSON file for each request, named by the SHA-256 of the model's name and the request. Neither the server's
address nor its key is in it, so that a folder of answers can be shared and replayed anywhere.
"""

from __future__ import annotations

import hashlib
import json
from enum import StrEnum
from pathlib import Path

from fission_grpo.client.wire import ChatReply, ChatRequest
from fission_grpo.files import parse_json, read_text, write_text
from fission_grpo.types import FinishReason


class CacheMode(StrEnum):
    """What the folder is used for."""

    RECORD = "record"
    """Look first, ask the server for the rest, and keep what it says."""
    REPLAY = "replay"
    """Look, and never ask a server."""


class AnswerCache:
    """A folder of answers. Safe for several processes: files appear as a whole."""

    def __init__(self, folder: Path, *, model: str) -> None:
        self.folder = folder
        self._model = model

    def find(self, request: ChatRequest) -> ChatReply | None:
        """The answer of an earlier day; None without one, or where its file cannot be read."""
        try:
            kept = parse_json(read_text(self._file(request)))
            return ChatReply(
                content=kept["content"],
                calls=(),
                finish=FinishReason(kept["finish"]),
                prompt_tokens=kept["prompt_tokens"],
                tokens=kept["tokens"],
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, request: ChatRequest, reply: ChatReply) -> None:
        """Write an answer down.

        Raises:
            OSError: the disk refused it.
        """
        file = self._file(request)
        file.parent.mkdir(parents=True, exist_ok=True)
        kept = {
            "request": json.loads(request.body(self._model)),
            "content": reply.content,
            "finish": reply.finish.value,
            "prompt_tokens": reply.prompt_tokens,
            "tokens": reply.tokens,
        }
        write_text(file, json.dumps(kept, ensure_ascii=False, indent=1) + "\n")

    def _file(self, request: ChatRequest) -> Path:
        name = hashlib.sha256(request.body(self._model)).hexdigest()
        return self.folder / name[:2] / f"{name}.json"
