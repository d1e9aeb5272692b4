"""What a supervised run ends with: `summary.md` and its picture, from the lines of `metrics.jsonl`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fission_grpo.files import read_jsonl, write_text
from fission_grpo.report.figures import loss_figure
from fission_grpo.report.page.cost import duration
from fission_grpo.report.results import MetricsRows
from fission_grpo.run.folder import RunFolder


def write_sft_summary(path: Path, *, title: str) -> str:
    """Write `summary.md` and `loss.png` into the folder of a run with at least one update; returns the summary.

    Args:
        title: what was learned.
    Raises:
        DataError: a line of `metrics.jsonl` is damaged.
        OSError: the disk refused it.
    """
    rows = list(read_jsonl(RunFolder(path).metrics, "step", "loss"))
    loss_figure(rows, path / "loss.png")
    text = "\n".join(_lines(rows, name=path.resolve().name, title=title)) + "\n"
    write_text(path / "summary.md", text)
    return text


def _lines(rows: MetricsRows, *, name: str, title: str) -> Iterator[str]:
    yield f"# {name}: {len(rows)} updates on {title}\n"
    yield f"In nats a learned token, the loss was {rows[0]['loss']:.3f} at first and {rows[-1]['loss']:.3f} at last."
    measured = [(row["step"] + 1, row["validation_loss"]) for row in rows if "validation_loss" in row]
    if measured:
        best, lowest = min(measured, key=lambda one: one[1])
        (first, before), (_, after) = measured[0], measured[-1]
        yield f"On rows that were not learned: {before:.3f} after update {first}, {after:.3f} at the end."
        if best != measured[-1][0]:
            yield f"It was lowest, {lowest:.3f}, after update {best}: fewer updates or more dialogues do better."
    else:
        yield "Nothing was held back, so that nobody knows whether it learned or memorised: add --sft.held_back 0.05."
    raw, unique = (sum(row[key] for row in rows) for key in ("raw_tokens", "unique_tokens"))
    learned = sum(row["trained_tokens"] for row in rows)
    seconds = sum(row.get(key, 0.0) for row in rows for key in ("time/update", "time/validate"))
    yield (
        f"\n{duration(seconds)} for {raw:,} tokens, of which {learned:,} were learned and {unique:,} went through the "
        f"model, shared beginnings once ({raw / unique:.1f} times as many as separate rows).\n"
    )
    yield "![loss](loss.png)"
