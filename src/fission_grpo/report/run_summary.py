"""What a training ends with: `summary.md` of one run, one screen, with its pictures, from the files of the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from fission_grpo.files import read_jsonl, write_text
from fission_grpo.report.figures import curves_figure
from fission_grpo.report.page.change import RunChange, run_change
from fission_grpo.report.page.cost import duration, spending
from fission_grpo.report.page.sources import PageRun, read_settings_file
from fission_grpo.report.page.verdict import settings_text, shifts_table, training_cautions, training_sentence
from fission_grpo.report.style import BLUE
from fission_grpo.report.tables import aligned
from fission_grpo.report.tree import FissionTree, fission_trees, most_telling, text_tree
from fission_grpo.report.tree_figure import tree_figure
from fission_grpo.run.folder import RunFolder, quoted

SUMMARY = "summary.md"
MOST_TRACES = 256 * 2**20
"""Bytes of `traces.jsonl` up to which a summary reads it: it takes several times as much memory."""


def write_run_summary(path: Path) -> str:
    """Write `summary.md`, `curves.png` and, where there was fission, `tree.png` into a run folder.

    Returns:
        The summary.
    Raises:
        DataError: a line of `metrics.jsonl` or `traces.jsonl` is damaged.
        OSError: the disk refused it.
    """
    run = _read(path)
    change = run_change(run)
    tree = most_telling(fission_trees(run.traces))
    pictures = [curves_figure({run.name: [run.rows]}, path / "curves.png", colours={run.name: BLUE})]
    pictures += [tree_figure(tree, path / "tree.png")] if tree else []
    text = "\n".join(_sections(run, change, tree, pictures)) + "\n"
    write_text(path / SUMMARY, text)
    return text


def _read(path: Path) -> PageRun:
    folder = RunFolder(path)
    run = PageRun(
        name=path.resolve().name,
        path=path,
        settings=read_settings_file(folder.config),
        rows=tuple(read_jsonl(folder.metrics, "step")),
    )
    if not folder.traces.exists() or folder.traces.stat().st_size > MOST_TRACES:
        return run
    return replace(run, traces=tuple(read_jsonl(folder.traces, "group", "kind", "trajectories")))


def _sections(
    run: PageRun, change: RunChange | None, tree: FissionTree | None, pictures: Sequence[Path]
) -> Iterator[str]:
    yield f"# {run.name}: {run.steps} steps\n"
    if words := settings_text(run.settings):
        yield f"{words}\n"
    if change is None:
        yield "Nothing is said of its trajectories: traces of two steps are not there, or too many to be read here.\n"
    else:
        yield f"{training_sentence(run, change)} First and last steps meet different tasks.\n"
        yield aligned(shifts_table(change))
    serious = [one for one in training_cautions(run, change) if one.serious]
    yield from (f"- **{one.title}**: {one.text}" for one in serious)
    if serious:
        yield ""
    spent = spending(run)
    yield f"{f'{duration(spent.seconds)}; ' if spent.seconds else ''}{spent.sentence}\n"
    if tree:
        yield f"One fission tree, chosen because it tells much:\n\n```\n{text_tree(tree)}\n```\n"
    yield " ".join(f"![{path.stem}]({path.name})" for path in pictures)
    yield f"\nTrees, samples, errors by class and tool: `fission report {quoted(run.path)}`"
