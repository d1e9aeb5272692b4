"""Records as the official result files, for the official scorer to read.

What `QwenFCHandler` would have stored: for each user turn the texts of its messages without reasoning; for an entry
whose inference broke, one string. Score them with `bfcl evaluate --model NAME --result-dir FOLDER`, where NAME is a
Qwen FC model of `bfcl_eval`, which decides only how texts are decoded.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fission_grpo.agents.qwen_fc import decode, without_reasoning
from fission_grpo.chat.parse import render_call
from fission_grpo.environments.bfcl.entries import BfclCategory
from fission_grpo.evaluation.bfcl.records import BfclEnd, BfclRecord, Step
from fission_grpo.files import write_pieces

EXPORT_MODEL = "Qwen/Qwen3-8B-FC"
"""Name in `bfcl_eval` under which the official scorer decodes the texts as we wrote them."""


def export(records: Sequence[BfclRecord], folder: Path) -> tuple[Path, ...]:
    """Write `<folder>/<EXPORT_MODEL>/multi_turn/BFCL_v4_multi_turn_<category>_result.json`, one line an entry.

    Entries that ended in a fault are left out: they have no result (`bfcl evaluate` then needs `--partial-eval`).

    Returns:
        The files written, one for each category that has entries.
    """
    place = folder / EXPORT_MODEL.replace("/", "_") / "multi_turn"
    place.mkdir(parents=True, exist_ok=True)
    written = []
    for category in BfclCategory:
        found = [record for record in records if record.category is category and record.end is not BfclEnd.FAULT]
        lines = [official_result(record) for record in sorted(found, key=lambda record: record.scenario)]
        if lines:
            path = place / f"BFCL_v4_multi_turn_{category}_result.json"
            write_pieces(path, (json.dumps(line) + "\n" for line in lines))
            written.append(path)
    return tuple(written)


def official_result(record: BfclRecord) -> dict[str, Any]:
    """One line of a result file."""
    if record.end is BfclEnd.INFERENCE_ERROR:
        return {"id": record.entry, "result": f"Error during inference: {record.reason}"}
    return {
        "id": record.entry,
        "result": [list(map(stored_text, steps)) for steps in record.turns],
        "input_token_count": [[step.prompt_tokens for step in steps] for steps in record.turns],
        "output_token_count": [[step.tokens for step in steps] for steps in record.turns],
        "latency": [[step.seconds for step in steps] for steps in record.turns],
    }


def stored_text(step: Step) -> str:
    """The model's own text where the official decoder finds in it the calls that were executed; else, after another
    prompt mode or the lenient reader, the same calls in the form that it reads."""
    said = without_reasoning(step.text)
    if decode(said) == step.calls:
        return said
    return "\n".join(map(render_call, step.calls))
