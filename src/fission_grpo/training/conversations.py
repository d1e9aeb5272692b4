"""A user's conversations as rows to be learned: a file of JSON Lines in OpenAI form, checked in one pass."""

from __future__ import annotations

from pathlib import Path

from fission_grpo.chat.format import ChatFormat
from fission_grpo.errors import ConfigError, DataError
from fission_grpo.tasks.inspection import conversation_problems
from fission_grpo.tasks.jsonl import placed_records
from fission_grpo.training.dialogues import conversation_row
from fission_grpo.types import TokenRow


def read_conversations(path: Path, *, chat: ChatFormat, window: int) -> list[TokenRow]:
    """One row for each line: see `conversation_row`.

    Args:
        window: most tokens that the model can hold.
    Raises:
        DataError: the file has problems (all of them are listed), holds nothing, or cannot be opened.
    """
    rows: list[TokenRow] = []
    problems: list[str] = []
    for place, record, broken in placed_records(path):
        found = broken or conversation_problems(record)
        if not found:
            try:
                rows.append(conversation_row(record["messages"], record.get("tools", ()), chat=chat))
            except (ConfigError, ValueError) as error:
                found = [str(error)]
        if not found and (length := len(rows[-1].ids)) > window:
            found = [f"has {length:,} tokens, and the model holds {window:,}; shorten it"]
        problems += [f"{place}: {problem}" for problem in found]
    if not rows and not problems:
        problems.append("holds no conversation; expected one JSON object a line")
    if problems:
        raise DataError(str(path), problems)
    return rows
