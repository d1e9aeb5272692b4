"""One page for a person: what `fission report` makes of runs, evaluations, comparisons and quickstarts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fission_grpo.errors import ConfigError
from fission_grpo.files import write_text
from fission_grpo.report.page.page import Page, render
from fission_grpo.report.page.quickstart import page_of_quickstart
from fission_grpo.report.page.runs import page_of_runs
from fission_grpo.report.page.sources import is_quickstart, read_quickstart, read_runs
from fission_grpo.report.results import Results
from fission_grpo.report.summary import REPORT

SAMPLES = 2000
"""Most trajectories and episodes on a page, unless said otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenReport:
    """A page on disk."""

    path: Path
    kind: str
    verdict: str
    shown: int
    """Trajectories and episodes that can be read on it."""
    left_out: tuple[str, ...]
    """One sentence for each thing that it does not hold whole."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "report": str(self.path),
            "kind": self.kind,
            "verdict": self.verdict,
            "bytes": self.path.stat().st_size,
            "shown": self.shown,
            "left_out": list(self.left_out),
        }

    def __str__(self) -> str:
        """What a person is told."""
        size = self.path.stat().st_size / 1e6
        return "\n".join([f"{self.path} ({size:.1f} MB, {self.shown:,} samples)", self.verdict, *self.left_out])


def write_report(paths: Sequence[Path], output: Path, *, samples: int, seed: int) -> WrittenReport:
    """Read runs and write the page.

    Args:
        paths: of runs and evaluations, the baseline first; or of one quickstart.
        output: the HTML file; its folder must be there.
        samples: most trajectories and episodes on the page.
        seed: of those that are drawn.

    Raises:
        ConfigError: a path holds nothing to report on, a quickstart stands among others, or the output is no place
            for a file.
        DataError: a file is damaged.
    """
    if output.is_dir() or not output.resolve().parent.is_dir():
        raise ConfigError(
            f"{output} is no place for a file; give one in a folder that is there, for instance report.html"
        )
    return _write(_page(paths, samples=samples, seed=seed), paths, output, samples=samples, seed=seed)


def write_quickstart_report(results: Results) -> WrittenReport:
    """The page of a quickstart beside its summary, of the same arms and seeds."""
    page = page_of_quickstart(results, samples=SAMPLES, seed=0)
    return _write(page, [results.folder], results.folder / REPORT, samples=SAMPLES, seed=0)


def _write(page: Page, paths: Sequence[Path], output: Path, *, samples: int, seed: int) -> WrittenReport:
    named = " ".join(map(str, paths))
    write_text(
        output, render(page, command=f"fission report {named} -o {output} --samples {samples} --seed {seed}", seed=seed)
    )
    shown, left_out = len(page.payload.items), tuple(page.payload.left_out)
    return WrittenReport(path=output, kind=page.kind, verdict=page.verdict, shown=shown, left_out=left_out)


def _page(paths: Sequence[Path], *, samples: int, seed: int) -> Page:
    quickstarts = [path for path in paths if is_quickstart(path)]
    if not quickstarts:
        return page_of_runs(read_runs(paths), samples=samples, seed=seed)
    if len(paths) > 1:
        raise ConfigError(
            f"{quickstarts[0]} is a quickstart, which has a page of its own, and {len(paths)} paths were given; "
            "give it alone, or single runs in it"
        )
    return page_of_quickstart(read_quickstart(paths[0]), samples=samples, seed=seed)
