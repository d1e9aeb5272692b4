"""What the page is about: folders read into runs, each with what it has of settings, steps, groups and episodes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fission_grpo.errors import ConfigError
from fission_grpo.evaluation.compare_runs import Parts, load_run, names_apart
from fission_grpo.evaluation.heldout import COMPLETE, Evaluation
from fission_grpo.evaluation.records import TRACES
from fission_grpo.files import read_json, read_jsonl
from fission_grpo.report.arms import ARM_WORDS
from fission_grpo.report.results import DEMONSTRATIONS, WARM_START, MetricsRows, Results
from fission_grpo.report.summary import ALIKE
from fission_grpo.run.folder import RunFolder

Trace = Mapping[str, Any]
"""One group: a line of a run's `traces.jsonl`."""
PLAN = "plan.json"
"""In the folder of a quickstart."""
_ARM_FOLDER = re.compile(r"(?P<arm>.+)-(?P<seed>\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRun:
    """One run or evaluation as the page sees it."""

    name: str
    path: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    rows: MetricsRows = ()
    """Of `metrics.jsonl`; none of a mere evaluation."""
    traces: tuple[Trace, ...] = ()
    evaluation: Path | None = None
    """Where its episodes were read from."""
    parts: Parts = field(default_factory=dict)

    @property
    def steps(self) -> int:
        return len(self.rows)

    @property
    def planned(self) -> int:
        """Steps that the settings ask for; 0 where they do not say it."""
        return int(self.settings.get("trainer", {}).get("steps", 0))


def read_runs(paths: Sequence[Path]) -> list[PageRun]:
    """Runs and evaluations, in order.

    Raises:
        ConfigError: a path holds neither, or is given twice.
        DataError: a file is damaged.
    """
    return [_read_run(path, name) for path, name in zip(paths, names_apart(paths), strict=True)]


def _read_run(path: Path, name: str) -> PageRun:
    if not path.exists():
        raise ConfigError(f"{path} is not there; give a folder of a run, an evaluation or a quickstart")
    folder = RunFolder(path)
    if not folder.metrics.exists():
        _require_something(path)
        return PageRun(name=name, path=path, settings=_evaluation_settings(path), evaluation=path, parts=load_run(path))
    if folder.is_supervised:
        raise ConfigError(
            f"{path} holds a supervised run, which has no such page: read its summary.md, or give an evaluation of it"
        )
    evaluation, rows = _evaluation_inside(path), tuple(read_jsonl(folder.metrics, "step"))
    if not rows:
        raise ConfigError(f"{path} has not finished its first step yet; make the report once it has")
    return PageRun(
        name=name,
        path=path,
        settings=read_settings_file(folder.config),
        rows=rows,
        traces=tuple(read_jsonl(folder.traces, "group", "kind", "trajectories")) if folder.traces.exists() else (),
        evaluation=evaluation,
        parts=Evaluation.load(evaluation).parts if evaluation else {},
    )


def _require_something(path: Path) -> None:
    evaluated = any(path.glob(COMPLETE)) or any(path.glob(f"*/{COMPLETE}")) or (path / TRACES).is_file()
    if path.is_dir() and not evaluated:
        raise ConfigError(
            f"{path} holds nothing to report on: no metrics.jsonl of a training run, no finished evaluation, no "
            f"{PLAN} of a quickstart; give the --output of one of them"
        )


def _evaluation_inside(run: Path) -> Path | None:
    """The complete evaluation in a folder of the run; of several `evaluation`, or the first by name."""
    found = sorted(place.parent for place in run.glob(f"*/{COMPLETE}"))
    named = [place for place in found if place.name == "evaluation"]
    return next(iter([*named, *found]), None)


def read_settings_file(path: Path) -> Mapping[str, Any]:
    """The mapping in a YAML file; empty where there is none.

    Raises:
        ConfigError: it cannot be read.
    """
    if not path.exists():
        return {}
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read ({' '.join(str(error).split())}); restore it") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path} holds {type(found).__name__}, expected settings by name; restore it")
    return found


def _evaluation_settings(path: Path) -> Mapping[str, Any]:
    place = path / "settings.json"
    return read_json(place, remedy="restore it") if place.is_file() else {}


def is_quickstart(path: Path) -> bool:
    """Whether a quickstart wrote the folder."""
    return (path / PLAN).is_file()


def read_quickstart(folder: Path) -> Results:
    """The arms of a quickstart that have been evaluated, the compared ones first, and the seeds that all have.

    Raises:
        ConfigError: no arm, or not the warm start, has been evaluated yet.
    """
    plan = read_json(folder / PLAN, "size", remedy="restore it")
    seeds: dict[str, set[int]] = {}
    for place in folder.glob(f"*/evaluation/{COMPLETE}"):
        if named := _ARM_FOLDER.fullmatch(place.parent.parent.name):
            seeds.setdefault(named["arm"], set()).add(int(named["seed"]))
    demonstrated = seeds.pop(DEMONSTRATIONS, set())
    start = seeds.pop(WARM_START.replace(" ", "-"), set())
    if not seeds or not start or not demonstrated:
        raise ConfigError(
            f"{folder} holds a quickstart that is not finished: "
            f"{', '.join(sorted(seeds)) or 'no arm'} evaluated; go on with: fission quickstart --output {folder}"
        )
    compared = next((pair for pair in ALIKE if set(pair) <= seeds.keys()), ())
    words = [*compared, *ARM_WORDS]
    ordered = sorted(seeds, key=lambda arm: (words.index(arm) if arm in words else len(words), arm))
    shared = sorted(set.intersection(*seeds.values()))
    if not shared:
        raise ConfigError(f"{folder}: its arms share no seed that has been evaluated; finish the quickstart first")
    count = sum(seed in demonstrated for seed in shared)
    return Results(
        folder=folder, arms=tuple(ordered), seeds=tuple(shared), size=plan["size"], demonstrations=max(count, 1)
    )
