"""Where the numbers come from: settings, versions, seeds, and hashes of the files that were read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from fission_grpo.report.page.sources import PageRun
from fission_grpo.run.folder import RunFolder, quoted
from fission_grpo.run.provenance import Provenance, RunInputs, differences, read_provenance

HASHED = 256 * 2**20
"""Largest file in bytes whose hash is worth the wait; of a larger one the size has to do."""
SHOWN = 16
"""Digits of a hash on the page; `provenance.jsonl` has them all."""
UNKNOWN = "older than provenance.jsonl: command, versions, commit and machine were not written down"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFact:
    """One file behind the page."""

    name: str
    size: str
    sha256: str
    """Its first 16 digits; empty where it is too large to be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginFact:
    """One line of where a folder comes from."""

    label: str
    text: str
    is_code: bool = False
    """To be read letter by letter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFacts:
    """Of one run."""

    name: str
    path: str
    settings: str
    """As YAML."""
    seeds: str
    files: tuple[FileFact, ...]
    origin: tuple[OriginFact, ...]


def source_facts(run: PageRun) -> SourceFacts:
    """What the folders of a run say of themselves.

    Raises:
        DataError: its `provenance.jsonl` cannot be read.
    """
    settings = dict(run.settings)
    evaluation = run.evaluation if run.evaluation != run.path else None
    return SourceFacts(
        name=run.name,
        path=str(run.path.resolve()),
        settings=yaml.safe_dump(settings, sort_keys=False, allow_unicode=True) if settings else "",
        seeds=", ".join(f"{name} {value}" for name, value in _seeds(settings)),
        files=tuple(_facts(run)),
        origin=(*origin_facts(run.path, trained=bool(run.rows)), *(_evaluated(evaluation) if evaluation else ())),
    )


def folder_facts(path: Path) -> SourceFacts:
    """Of a folder that only holds other runs."""
    origin = tuple(origin_facts(path, trained=False))
    return SourceFacts(
        name=path.resolve().name, path=str(path.resolve()), settings="", seeds="", files=(), origin=origin
    )


def origin_facts(path: Path, *, trained: bool) -> Iterator[OriginFact]:
    """What `provenance.jsonl` says, to be read."""
    known = read_provenance(path)
    if not known:
        yield OriginFact(label="Origin", text=UNKNOWN)
        return
    first, *later = known
    yield OriginFact(label="Command", text=first.command_line, is_code=True)
    yield OriginFact(label="Begun", text=f"{_moment(first)} in {first.directory}")
    for one in later:
        changed = "; ".join(differences(first, one))
        at = f" at step {one.step}" if one.step else ""
        yield OriginFact(label="Went on", text=f"{_moment(one)}{at}{': ' if changed else ''}{changed}")
    yield OriginFact(label="Code", text=", ".join(_code(first)))
    yield OriginFact(label="Versions", text=", ".join(f"{name} {version}" for name, version in first.versions.items()))
    yield OriginFact(label="Machine", text=", ".join(_machine(first)))
    if first.inputs:
        yield from _input_facts(first.inputs)
    if trained:
        yield OriginFact(label="Repeat it", text=f"fission reproduce {quoted(path)}", is_code=True)


def _evaluated(folder: Path) -> Iterator[OriginFact]:
    for fact in origin_facts(folder, trained=False):
        if fact.label in ("Command", "Begun", "Data"):
            yield OriginFact(label=f"Evaluation: {fact.label.lower()}", text=fact.text, is_code=fact.is_code)


def _moment(known: Provenance) -> str:
    return known.started.replace("T", " ").replace("+00:00", " UTC")


def _code(known: Provenance) -> Iterator[str]:
    for name, commit in known.commits.items():
        yield f"{'the working directory' if name == 'here' else name} at commit {commit}"
    yield f"Python files of fission-grpo {known.source[:SHOWN]}"


def _machine(known: Provenance) -> Iterator[str]:
    machine = known.machine
    yield f"{machine.processor}, {machine.cores} cores, {_size_text(machine.memory)}"
    yield from machine.accelerators
    if machine.threads:
        threads = f"{machine.threads} thread{'' if machine.threads == 1 else 's'}"
        yield threads if machine.processes == 1 else f"{machine.processes} processes of {threads}"
    yield machine.system


def _input_facts(inputs: RunInputs) -> Iterator[OriginFact]:
    hashes = [f"{name} {digest[:SHOWN]}" for name, digest in inputs.files.items()]
    hashes += [f"chat template {inputs.template[:SHOWN]}"] if inputs.template else []
    yield OriginFact(label="Model", text=f"{inputs.model}: {', '.join(hashes)}")
    if inputs.tasks:
        file = f" (file {inputs.data_file[:SHOWN]})" if inputs.data_file else ""
        yield OriginFact(label="Data", text=f"{inputs.data}{file}: {inputs.tasks:,} tasks, {inputs.tasks_hash[:SHOWN]}")


def _seeds(settings: object, above: str = "") -> Iterator[tuple[str, object]]:
    """Every setting called `seed`, with its place."""
    for name, value in settings.items() if isinstance(settings, dict) else ():
        if name == "seed":
            yield f"{above}{name}", value
        yield from _seeds(value, f"{above}{name}.")


def _facts(run: PageRun) -> Iterator[FileFact]:
    folder = RunFolder(run.path)
    policy = ("model.safetensors", "adapter_model.safetensors", "tokenizer.json", "chat_template.jinja", "config.json")
    places = [folder.config, folder.metrics, folder.traces, folder.tasks, *(folder.policy / name for name in policy)]
    if run.evaluation is not None:
        places += sorted(run.evaluation.glob("*.json*")) if run.evaluation.is_dir() else [run.evaluation]
    for place in places:
        if place.is_file():
            yield _file_fact(place, place.relative_to(run.path) if run.path in place.parents else place)


def _file_fact(place: Path, name: Path) -> FileFact:
    """Size and hash of a file."""
    size = place.stat().st_size
    digest = ""
    if size <= HASHED:
        with place.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:SHOWN]
    return FileFact(name=str(name), size=_size_text(size), sha256=digest)


def _size_text(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
