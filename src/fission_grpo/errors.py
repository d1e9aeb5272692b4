"""Everything that can go wrong, by whose doing it is.

    FissionError
    ├── ConfigError(ValueError)      the user's settings, files or model; raised before expensive work starts
    │   └── DataError                a data file; carries one line per problem
    ├── TrackerError                 somebody else's tracker; the files of the run have everything
    └── RolloutError                 our machinery during a rollout; recorded on the trajectory, counted, masked
        ├── PolicyError              sampling failed
        ├── EnvironmentFault         a tool broke in a way it did not announce
        └── SimulatorError           feedback could not be written
    ToolError                        raised *by a tool* to tell the model that it erred; becomes a tool message

A tool error is text the model sees and may learn from. A *failure* is a verdict on a trajectory and no exception at
all. Everything unexpected is ours: `boundary` is the only broad `except` in the package, and it says which machine
part the fault belongs to. Messages give what, got and expected, and end with a remedy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class FissionError(Exception):
    """Base of all our own exceptions."""


class ConfigError(FissionError, ValueError):
    """Settings, a path or a model that cannot work: nothing has been spent yet."""


class DataError(ConfigError):
    """A data file with problems, all of them, each with its line."""

    def __init__(self, path: str, problems: Sequence[str]) -> None:
        super().__init__(f"{path}: {len(problems)} problem(s)\n" + "\n".join(f"  {p}" for p in problems))
        self.path = path
        self.problems = tuple(problems)

    def __reduce__(self) -> tuple[type[DataError], tuple[str, tuple[str, ...]]]:
        return (type(self), (self.path, self.problems))


class TrackerError(FissionError):
    """A tracker could not be opened, or told."""


class RolloutError(FissionError):
    """A fault of ours while a trajectory was made."""


class PolicyError(RolloutError):
    """The policy could not be sampled."""


class EnvironmentFault(RolloutError):  # noqa: N818 - a fault, as in `Fault`: the word says whose doing it was
    """A tool or its world broke without saying so in its own words."""


class SimulatorError(RolloutError):
    """No feedback could be written."""


class ToolError(Exception):
    """Raised by a tool on purpose: the text goes to the model as the tool's answer."""


def message_lines(error: BaseException) -> list[str]:
    """What a person is told: the message, then the notes that were added on its way."""
    return [str(error), *getattr(error, "__notes__", ())]


@contextmanager
def boundary(fault: type[RolloutError | TrackerError], what: str) -> Iterator[None]:
    """Attribute every unexpected exception inside to one part of the machinery.

    Raises:
        RolloutError, TrackerError: of type `fault`, chained to the original, which keeps its traceback.
    """
    try:
        yield
    except (RolloutError, ToolError, ConfigError):
        raise
    except Exception as error:  # the only broad except: everything unexpected is ours, never the model's
        raise fault(f"{what}: {type(error).__name__}: {error}") from error
