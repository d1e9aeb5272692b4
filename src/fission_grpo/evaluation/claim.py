"""One folder, one evaluation: what was asked for stands in it before anything is played."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fission_grpo.errors import ConfigError
from fission_grpo.run_folder import write_text


def claim(output: Path, settings: Mapping[str, Any], *, resume: bool) -> None:
    """Take the folder for these settings and write them to its `settings.json`.

    Raises:
        ConfigError: it holds an evaluation by other settings, or one that `resume` does not ask for.
    """
    asked = json.loads(json.dumps(settings))
    path = output / "settings.json"
    if path.exists():
        if not resume:
            raise ConfigError(f"{output} already holds an evaluation; go on with --resume or choose another --output")
        held = json.loads(path.read_text(encoding="utf-8"))
        changed = sorted(_changed(held, asked))
        if changed:
            raise ConfigError(f"{output} was begun with other settings ({', '.join(changed)}); choose another --output")
    output.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(asked, indent=2) + "\n")


def _changed(held: Any, asked: Any, path: str = "") -> Iterator[str]:
    """Dotted names of the settings that differ."""
    if isinstance(held, Mapping) and isinstance(asked, Mapping):
        for key in {*held, *asked}:
            yield from _changed(held.get(key), asked.get(key), f"{path}.{key}" if path else key)
    elif held != asked:
        yield path
