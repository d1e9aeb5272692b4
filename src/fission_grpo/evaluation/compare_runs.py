"""`fission compare`: evaluation folders in, paired differences out; the first run is the baseline.

Two kinds of folders are read: of `fission eval` on our tasks (one JSONL of episode records a part), and of a benchmark
(`traces.jsonl`, one BFCL entry or one episode record a line). Only entries that both runs have, each without a
fault of ours, are compared; every other one is named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fission_grpo.errors import ConfigError
from fission_grpo.evaluation.bfcl.records import as_episode, read_bfcl
from fission_grpo.evaluation.heldout import COMPLETE, Evaluation
from fission_grpo.evaluation.metrics import (
    ACCURACY,
    BENCHMARK_METRICS,
    ERR,
    FINAL,
    FIRST_ATTEMPT,
    NCR,
    PROBE,
    PROBE_REPEAT,
    PROBE_TURN,
    Metric,
)
from fission_grpo.evaluation.paired import Contrast, Paired, category_of, contrast, pair
from fission_grpo.evaluation.records import TRACES, EpisodeRecord, read_records
from fission_grpo.evaluation.statistics import Share
from fission_grpo.files import read_jsonl

BENCHMARK, PROBES = "benchmark", "probe"
"""Parts of a benchmark's folder: its entries, and injected errors. A record's `meta["part"]` may name another."""
IN_RUN = ("evaluation", "tasks")
"""Where a run folder holds an evaluation on our tasks, and one on tasks of the user's own."""
_EPISODE = (FINAL, FIRST_ATTEMPT, ERR, NCR)
_PROBE = (PROBE, FINAL, PROBE_REPEAT)

Parts = Mapping[str, tuple[EpisodeRecord, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedRun:
    """One evaluation, read back."""

    name: str
    path: Path
    parts: Parts


@dataclass(frozen=True, slots=True, kw_only=True)
class PartContrast:
    """One run against the baseline on one part."""

    part: str
    baseline: str
    treatment: str
    paired: Paired
    contrasts: tuple[Contrast, ...]
    """The first is the headline."""

    @property
    def headline(self) -> Contrast:
        return self.contrasts[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunComparison:
    """Every run against the first."""

    runs: tuple[EvaluatedRun, ...]
    contrasts: tuple[PartContrast, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, with every excluded, fixed and broken entry; what was not counted is null."""
        return {
            "runs": [{"name": run.name, "path": str(run.path)} for run in self.runs],
            "contrasts": [_part_json(one) for one in self.contrasts],
        }


def compare_runs(paths: Sequence[Path], *, seed: int = 0) -> RunComparison:
    """Read evaluations and compare each with the first one.

    Raises:
        ConfigError: fewer than two paths, a path that holds no evaluation, or runs without a common part or entry.
        DataError: a record that cannot be read, or an entry that a run holds twice.
    """
    if len(paths) < 2:
        raise ConfigError(f"got {len(paths)} run(s); expected at least two, the baseline first")
    named = zip(names_apart(paths), paths, strict=True)
    return contrast_runs([EvaluatedRun(name=name, path=path, parts=load_run(path)) for name, path in named], seed=seed)


def contrast_runs(runs: Sequence[EvaluatedRun], *, seed: int = 0) -> RunComparison:
    """Compare each run with the first one.

    Raises:
        ConfigError, DataError: as `compare_runs`.
    """
    baseline, *treatments = runs
    contrasts = [one for run in treatments for one in _contrasts(baseline, run, seed=seed)]
    return RunComparison(runs=tuple(runs), contrasts=tuple(contrasts))


def load_run(path: Path) -> Parts:
    """The records of an evaluation folder, of a run folder that holds one, or of one JSONL of records, by part.

    Raises:
        ConfigError: nothing of the kind is there, or a run folder holds two.
        DataError: a record that cannot be read.
    """
    inside = [path / name for name in IN_RUN]
    if all((place / COMPLETE).exists() for place in inside):
        raise ConfigError(f"{path} holds two evaluations; give one of them: {' or '.join(map(str, inside))}")
    for place in (path, *inside):
        if (place / COMPLETE).exists():
            return Evaluation.load(place).parts
        if (place / TRACES).is_file() and not (place / "metrics.jsonl").exists():  # those of a training are groups
            return _read(place / TRACES)
    if path.is_file():
        return _read(path)
    raise ConfigError(f"{path} holds no evaluation; expected a folder that `fission eval` wrote, or a JSONL of records")


def _read(path: Path) -> Parts:
    """BFCL entries, or episode records."""
    if "entry" in next(read_jsonl(path), {}):
        return _by_part([as_episode(record) for record in read_bfcl(path)])
    return _by_part(read_records(path))


def _by_part(records: Sequence[EpisodeRecord]) -> Parts:
    parts: dict[str, list[EpisodeRecord]] = {}
    for record in records:
        parts.setdefault(record.meta.get("part", PROBES if record.probe else BENCHMARK), []).append(record)
    return {name: tuple(members) for name, members in parts.items()}


def _contrasts(baseline: EvaluatedRun, treatment: EvaluatedRun, *, seed: int) -> list[PartContrast]:
    shared = [part for part, records in baseline.parts.items() if records and treatment.parts.get(part)]
    if not shared:
        raise ConfigError(f"{baseline.path} and {treatment.path} share no part; expected evaluations of one kind")
    return [_part_contrast(part, baseline, treatment, seed=seed) for part in shared]


def _part_contrast(part: str, baseline: EvaluatedRun, treatment: EvaluatedRun, *, seed: int) -> PartContrast:
    paired = pair(baseline.parts[part], treatment.parts[part])
    if not paired.entries:
        raise ConfigError(
            f"{baseline.path} and {treatment.path} have no sound entry of {part} in common: "
            f"{len(paired.faulty)} met a fault of the harness, the others are not shared"
        )
    found = [contrast(metric, paired, seed=seed) for metric in _metrics(paired)]
    return PartContrast(
        part=part,
        baseline=baseline.name,
        treatment=treatment.name,
        paired=paired,
        contrasts=(*_by_category(paired, seed=seed), *(one for one in found if one.before.total + one.after.total)),
    )


def _metrics(paired: Paired) -> Sequence[Metric]:
    """What the entries can be asked."""
    if any(record.probe for record in paired.before):
        return (PROBE_TURN, *_PROBE) if any(record.turn_ok for record in paired.before) else _PROBE
    return BENCHMARK_METRICS[1:] if _categories(paired) else _EPISODE


def _categories(paired: Paired) -> list[str]:
    return sorted({category_of(record) for record in paired.before} - {""})


def _by_category(paired: Paired, *, seed: int) -> list[Contrast]:
    """Official accuracy, overall and category by category; nothing where there are no categories."""
    names = _categories(paired)
    if not names or any(record.probe for record in paired.before):
        return []
    overall = contrast(
        ACCURACY, paired, title=f"Accuracy, mean of {len(names)} categories", stratum=category_of, seed=seed
    )
    found = [overall]
    for name in names if len(names) > 1 else []:
        before, after = (
            tuple(record for record in records if category_of(record) == name)
            for records in (paired.before, paired.after)
        )
        one = Paired(before=before, after=after)
        found.append(contrast(ACCURACY, one, title=f"Accuracy, {name}", seed=seed))
    return found


def names_apart(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart; one inside a run is named after the run."""
    parts = [path.resolve().parts for path in paths]
    parts = [one[:-1] if one[-1] in IN_RUN else one for one in parts]
    ends = (["/".join(one[-length:]) for one in parts] for length in range(1, max(map(len, parts)) + 1))
    distinct = next((names for names in ends if len(set(names)) == len(names)), None)
    if distinct is None:
        raise ConfigError(f"a run is given twice: {', '.join(map(str, paths))}; expected different ones")
    return distinct


def _part_json(one: PartContrast) -> dict[str, Any]:
    return {
        "part": one.part,
        "baseline": one.baseline,
        "treatment": one.treatment,
        "entries": one.paired.entries,
        "scenarios": one.paired.scenarios,
        "excluded": {
            "only_baseline": list(one.paired.only_before),
            "only_treatment": list(one.paired.only_after),
            "harness_fault": list(one.paired.faulty),
        },
        "metrics": [_contrast_json(each) for each in one.contrasts],
    }


def _contrast_json(one: Contrast) -> dict[str, Any]:
    counted = one.difference == one.difference
    return {
        "metric": one.metric.name,
        "title": one.title,
        "baseline": _estimate_json(one.before),
        "treatment": _estimate_json(one.after),
        "difference": one.difference if counted else None,
        "interval": [one.interval.low, one.interval.high] if counted else None,
        "p_value": one.change.p_value,
        "resolvable": one.change.resolvable,
        "fixed": list(one.fixed),
        "broken": list(one.broken),
    }


def _estimate_json(one: Share) -> dict[str, Any]:
    counted = {"value": one.value, "interval": [one.interval.low, one.interval.high]} if one.total else {}
    return {"count": one.successes, "total": one.total, **counted}
