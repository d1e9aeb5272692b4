"""One folder, one evaluation: what was asked for stands in it before anything is played."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fission_grpo.errors import ConfigError
from fission_grpo.files import write_text


def require_free(output: Path, settings: Mapping[str, Any], *, resume: bool) -> None:
    """Refuse before anything is loaded.

    Raises:
        ConfigError: the folder holds an evaluation by other settings, or one that `resume` does not ask for.
    """
    path = output / "settings.json"
    if not path.exists():
        return
    if not resume:
        raise ConfigError(f"{output} already holds an evaluation; go on with --resume or choose another --output")
    held = json.loads(path.read_text(encoding="utf-8"))
    changed = sorted(_changed(held, _plain(settings)))
    if changed:
        raise ConfigError(f"{output} was begun with other settings ({', '.join(changed)}); choose another --output")


def claim(output: Path, settings: Mapping[str, Any]) -> None:
    """Take a free folder for these settings: they stand in its `settings.json` from now on."""
    output.mkdir(parents=True, exist_ok=True)
    write_text(output / "settings.json", json.dumps(_plain(settings), indent=2) + "\n")


def _plain(settings: Mapping[str, Any]) -> Any:
    """As they will be read back."""
    return json.loads(json.dumps(settings))


def _changed(held: Any, asked: Any, path: str = "") -> Iterator[str]:
    """Dotted names of the settings that differ."""
    if isinstance(held, Mapping) and isinstance(asked, Mapping):
        for key in {*held, *asked}:
            yield from _changed(held.get(key), asked.get(key), f"{path}.{key}" if path else key)
    elif held != asked:
        yield path
