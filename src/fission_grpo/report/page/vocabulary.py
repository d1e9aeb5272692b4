"""The words of the tokens that a page shows, read from the tokenizer of the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

import fission_grpo.models
from fission_grpo.report.page.sources import PageRun
from fission_grpo.run.folder import RunFolder

_FILE = "tokenizer.json"
_NANO = Path(fission_grpo.models.__file__).parent / "nano_weights"
_SPACE = "▁"
"""How SentencePiece writes a space."""


@dataclass(slots=True)
class Vocabulary:
    """Token ids of one run to places in the list of words that all runs of the page share."""

    tokenizer: Any
    words: list[str]
    known: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, run: PageRun, words: list[str]) -> Vocabulary | None:
        """None where the tokenizer is not on this machine any more."""
        model = str(run.settings.get("model", ""))
        folders = (RunFolder(run.path).policy, _NANO if model == "nano" else Path(model))
        place = next((folder / _FILE for folder in folders if (folder / _FILE).is_file()), None)
        return None if place is None else cls(tokenizer=Tokenizer.from_file(str(place)), words=words)

    def places(self, ids: Sequence[int]) -> list[int]:
        """Where the words of some tokens stand; a word is added when it is first seen."""
        for token in ids:
            if token not in self.known:
                self.known[token] = len(self.words)
                self.words.append(self._word(token))
        return [self.known[token] for token in ids]

    def _word(self, token: int) -> str:
        piece = self.tokenizer.id_to_token(token)
        if piece is None:
            return f"<{token}>"
        if _SPACE in piece:
            return str(piece.replace(_SPACE, " "))
        return str(self.tokenizer.decode([token], skip_special_tokens=False)) or str(piece)
