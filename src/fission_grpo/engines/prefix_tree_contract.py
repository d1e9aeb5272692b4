"""What of TRL we rely on beyond its documentation: a TRL that has changed it is refused in one sentence, at once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from importlib.metadata import version
from typing import Any

from fission_grpo.errors import ConfigError

TESTED = "1.16.0"
"""The release of TRL that the tests run on."""


def require_parameters(function: Callable[..., Any], names: Iterable[str]) -> None:
    """See that a function of TRL can be called with these keywords.

    Args:
        function: also one that shows another's signature (`functools.wraps`): either of the two may have the names.
    Raises:
        ConfigError: it cannot.
    """
    shown = [inspect.signature(function, follow_wrapped=follow).parameters for follow in (True, False)]
    missing = [name for name in names if not any(name in parameters for parameters in shown)]
    if missing:
        raise ConfigError(refusal(f"{function.__qualname__} takes no {', '.join(missing)}"))


def require_members(owner: Any, names: Iterable[str]) -> None:
    """See that a class or object of TRL has these attributes.

    Raises:
        ConfigError: it has not.
    """
    missing = [name for name in names if not hasattr(owner, name)]
    if missing:
        name = owner.__name__ if isinstance(owner, type) else type(owner).__name__
        raise ConfigError(refusal(f"{name} has no {', '.join(missing)}"))


def refusal(what: str) -> str:
    """What to say of a TRL that is not as expected, and what to install."""
    return f"in TRL {version('trl')} {what}, which we rely on: install trl=={TESTED}"
