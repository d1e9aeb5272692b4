"""Where the numbers come from: settings, versions, seeds, and hashes of the files that were read."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import yaml

from fission_grpo.report.page.sources import PageRun
from fission_grpo.run.folder import RunFolder

HASHED = 256 * 2**20
"""Largest file in bytes whose hash is worth the wait; of a larger one the size has to do."""
_PACKAGES = ("fission-grpo", "torch", "transformers", "accelerate", "peft", "tokenizers", "numpy")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFact:
    """One file behind the page."""

    name: str
    size: str
    sha256: str
    """Its first 16 digits; empty where it is too large to be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Of one run."""

    name: str
    path: str
    settings: str
    """As YAML."""
    seeds: str
    files: tuple[FileFact, ...]


def provenance(run: PageRun) -> Provenance:
    """What the folders of a run say of themselves."""
    settings = dict(run.settings)
    return Provenance(
        name=run.name,
        path=str(run.path.resolve()),
        settings=yaml.safe_dump(settings, sort_keys=False, allow_unicode=True) if settings else "",
        seeds=", ".join(f"{name} {value}" for name, value in _seeds(settings)),
        files=tuple(_facts(run)),
    )


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
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    return FileFact(name=str(name), size=_size_text(size), sha256=digest)


def _size_text(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def versions() -> Sequence[tuple[str, str]]:
    """Of the packages that made the page, which need not be those of the run."""
    found = [("Python", platform.python_version())]
    for name in _PACKAGES:
        try:
            found.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            continue
    return found
