"""Files of data sets on the Hugging Face Hub, where the network allows it."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
)

from fission_grpo.errors import ConfigError
from fission_grpo.tasks.convert.rows import ENDINGS

_UNREACHABLE = cast("tuple[type[Exception], ...]", HfHubHTTPError.__bases__)
"""`OSError`, and the base of all errors of the HTTP client, which is another one in each major release of the Hub's."""


def fetched(source: str) -> Path:
    """A file of a data set, in the Hub's cache on this machine.

    Args:
        source: `owner/name`, or `owner/name:path/of/the/file` where the data set has several.

    Raises:
        ConfigError: there is no such data set or file, there are several, or the Hub cannot be reached.
    """
    name, _, file = source.partition(":")
    try:
        if not file:
            found = [one for one in HfApi().list_repo_files(name, repo_type="dataset") if one.endswith(ENDINGS)]
            file = _only(name, found)
        return Path(hf_hub_download(name, file, repo_type="dataset"))
    except HFValidationError as error:
        raise ConfigError(f"{source} is neither a file nor the name of a data set (`owner/name`)") from error
    except GatedRepoError as error:
        raise ConfigError(f"{name} is gated: accept its terms on the Hub, and say `hf auth login`") from error
    except RepositoryNotFoundError as error:
        raise ConfigError(f"{source} is no file, and the Hub has no data set {name} that you may read") from error
    except _UNREACHABLE as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ConfigError(
            f"{source} is no file, and the data set cannot be fetched ({reason:.120}). Offline: where there is a "
            f"network, `hf download {name} --repo-type dataset --local-dir DIR`, and then convert a file of DIR"
        ) from error


def _only(name: str, found: list[str]) -> str:
    if len(found) == 1:
        return found[0]
    if not found:
        raise ConfigError(f"{name} has no file of rows ({', '.join(ENDINGS)})")
    raise ConfigError(f"{name} has {len(found)} files; give one: {', '.join(f'{name}:{one}' for one in found[:10])}")
