"""The settings of a run as one typed tree, and how they are read: a recipe, then a YAML file, then the command line.

Each part stands beside the component it configures; this module only joins them. Whatever is wrong with what the user
wrote is said at once, with its place: an unknown key with the nearest known one, by meaning where other libraries have
another word for it, a wrong value with what was expected.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from fission_grpo.algorithm.reward_functions import FunctionRewards
from fission_grpo.algorithm.rewards import DecisionReward, EpisodeReward
from fission_grpo.algorithm.source import FissionSettings
from fission_grpo.chat.templates import template_names
from fission_grpo.engines import Engine
from fission_grpo.engines.settings import EngineSettings
from fission_grpo.errors import ConfigError
from fission_grpo.files import parse_yaml, read_text, whole_path, yaml_value
from fission_grpo.foreign_names import NAME_HERE, NOT_HERE
from fission_grpo.models.catalog import Precision, model_from_anywhere
from fission_grpo.models.lora import LoraSettings
from fission_grpo.rollout import Horizon, RolloutSettings
from fission_grpo.run.trackers import TrackerName
from fission_grpo.settings import Settings, current_key, with_current_names
from fission_grpo.simulator.endpoint import EndpointSimulatorSettings
from fission_grpo.simulator.model import ModelSimulatorSettings
from fission_grpo.tasks.training_set import GIVEN, SYNTHETIC, SyntheticSettings
from fission_grpo.training.settings import SftSettings, TrainerSettings

Key: TypeAlias = tuple[str, ...]
"""Path of a setting: `("trainer", "steps")` for `trainer.steps`."""

SettingsT = TypeVar("SettingsT", bound=Settings)


SHORT_FOR: Mapping[Key, Key] = {("engine",): ("engine", "name")}
"""A section that is written as one value -> the setting in it that is meant."""


ADDED_LATER: Sequence[Key] = (
    ("trackers",),
    ("reward",),
    ("chat_template_kwargs",),
    ("trainer", "max_rows"),
    ("trainer", "gap_warning"),
    ("trainer", "gap_stops"),
    ("rollouts", "max_prompt"),
    ("fission", "keep_reasoning"),
)
"""Settings that run folders of earlier versions do not know."""


class SimulatorName(StrEnum):
    """Who writes the feedback on a failure."""

    PASSTHROUGH = "passthrough"
    """The world's own words."""
    STATIC = "static"
    """The paper's fixed string."""
    RULES = "rules"
    """Schema, call and world; never the reference."""
    MODEL = "model"
    """A language model on this machine: `simulator_model`."""
    ENDPOINT = "endpoint"
    """A language model behind a server: `simulator_endpoint`."""


class RunSettings(Settings):
    """Everything that one training run depends on."""

    model: str = "nano"
    """`nano`, `smollm2`, or a local Hugging Face folder."""
    chat_template: str | None = None
    """`hermes`, `nano`, or a Jinja file; none keeps the model's own."""
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """What the template is told, for instance `{enable_thinking: false}`; saved with the policy as part of its
    template."""
    precision: Precision = Precision.FP32
    """Type of the weights."""
    lora: LoraSettings | None = None
    """Train adapters and leave the model as it is; none trains every weight."""
    data: str = SYNTHETIC
    """A JSONL file of tasks, or `synthetic`; `given` in a run to which a program gave its tasks."""
    heldout: str | None = None
    """A JSONL file of tasks that are not trained on: what `fission eval tasks` plays unless it is given others."""
    synthetic: SyntheticSettings = Field(default_factory=SyntheticSettings)
    environments: dict[str, str] = Field(default_factory=dict)
    """Your own: the name that tasks give -> `package.module:name` of a class of tools, of a list of functions, or of an
    environment."""
    output: str | None = None
    """The run folder; the command line names it after recipe, arm and seed if it has no name."""
    engine: EngineSettings = Field(default_factory=EngineSettings)
    """Who makes the updates, on which devices; `engine: trl` is short for `engine: {name: trl}`."""
    trackers: tuple[TrackerName, ...] = ()
    """Who is told of every step besides the files of the run: `[trackio, wandb, tensorboard, mlflow]`."""
    simulator: SimulatorName = SimulatorName.RULES
    """Who writes the feedback of corrective contexts."""
    simulator_model: ModelSimulatorSettings = Field(default_factory=ModelSimulatorSettings)
    simulator_endpoint: EndpointSimulatorSettings | None = None
    trainer: TrainerSettings = Field(default_factory=TrainerSettings)
    sft: SftSettings = Field(default_factory=SftSettings)
    """Of `fission sft` alone."""
    rollouts: RolloutSettings = Field(default_factory=RolloutSettings)
    fission: FissionSettings = Field(default_factory=FissionSettings)
    decision: DecisionReward = Field(default_factory=DecisionReward)
    episode: EpisodeReward = Field(default_factory=EpisodeReward)
    reward: FunctionRewards = Field(default_factory=FunctionRewards)

    @model_validator(mode="after")
    def _an_endpoint_has_a_server(self) -> RunSettings:
        if self.simulator is SimulatorName.ENDPOINT and self.simulator_endpoint is None:
            raise ValueError(
                "simulator endpoint needs a server; set simulator_endpoint.server.url and ...server.model "
                "(or simulator=rules, which needs nothing)"
            )
        return self

    @model_validator(mode="after")
    def _updates_survive_rounding(self) -> RunSettings:
        """Our own loop keeps master weights in float32 beside those in bf16; the others cast as they compute."""
        if self.precision is Precision.BF16 and self.lora is None and self.engine.name is not Engine.OWN:
            raise ValueError(
                f"precision bf16 rounds small updates of the weights away in engine {self.engine.name}; choose "
                "precision=fp32 with engine.autocast=true, which computes in bf16, or add lora.rank=16"
            )
        return self

    @property
    def horizons(self) -> frozenset[Horizon]:
        """How far exploration goes in tasks with a world."""
        beside = {Horizon.TURN} if self.trainer.turn_queries else set()
        return frozenset({self.trainer.horizon, *beside})

    @property
    def folder(self) -> Path:
        """The run folder as a path."""
        return Path(self.output or "runs/run").expanduser()

    def share_of(self, processes: int) -> RunSettings:
        """What one of several processes does of a step.

        Raises:
            ConfigError: tasks or contexts cannot be shared out evenly.
        """
        if processes == 1:
            return self
        parts = {"trainer": self.trainer.share_of(processes), "fission": self.fission.share_of(processes)}
        return self.model_copy(update=parts)

    def from_anywhere(self) -> RunSettings:
        """The same with whole paths of model, template and task files: they mean the same in any working directory."""
        simulator, sft = self.simulator_model, self.sft
        template = self.chat_template
        learned = {"messages": sft.messages, "validation": sft.validation}
        changes = {
            "model": model_from_anywhere(self.model),
            "data": whole_path(self.data, names=(SYNTHETIC, GIVEN)),
            "heldout": self.heldout and whole_path(self.heldout, names=()),
            "chat_template": template and whole_path(template, names=template_names()),
            "simulator_model": simulator.model_copy(update={"model": model_from_anywhere(simulator.model)}),
            "sft": sft.model_copy(update={name: path and whole_path(path) for name, path in learned.items()}),
        }
        return self.model_copy(update=changes)

    def saved(self) -> dict[str, Any]:
        """Plain values for `config.yaml`; a run folder does not name itself, so that it can be moved.

        What is younger than some folders goes without saying where it is as it was before there was a choice: our own
        engine, no tracker, and the defaults of `ADDED_LATER`. What `fission sft` does is no matter of other runs: see
        `saved_for_sft`.
        """
        values = self.model_dump(mode="json", exclude={"output", "sft"})
        defaults = RunSettings().model_dump(mode="json")
        for *sections, name in ADDED_LATER:
            here, usual = values, defaults
            for section in sections:
                here, usual = here[section], usual[section]
            if here[name] == usual[name]:
                del here[name]
        engine = self.engine.model_dump(mode="json", exclude_defaults=True)
        return {**values, "engine": engine} if engine else {k: v for k, v in values.items() if k != "engine"}

    def saved_for_sft(self) -> dict[str, Any]:
        """The same of a supervised run, whose `config.yaml` is told by its section `sft`."""
        return {**self.saved(), "sft": self.sft.model_dump(mode="json")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One value that the user wrote."""

    key: Key
    value: Any
    origin: str
    """Where: `run.yaml line 3`, or `command line`."""


@dataclass(slots=True)
class _Tree:
    """Nested plain values, and where each came from."""

    values: dict[str, Any]
    origins: dict[Key, str] = field(default_factory=dict)

    def put(self, setting: Setting) -> None:
        """Set one value; a section that was none comes into being.

        Raises:
            ConfigError: the key goes through a value that is no section.
        """
        key = current_key(setting.key)
        if not isinstance(setting.value, Mapping):
            key = SHORT_FOR.get(key, key)
        *sections, name = key
        node = self.values
        for depth, section in enumerate(sections, 1):
            if node.get(section) is None:
                node[section] = {}
            node = node[section]
            if not isinstance(node, dict):
                here = ".".join(sections[:depth])
                if meaning := _meaning(_dotted(setting.key)):
                    raise ConfigError(f"unknown setting {_dotted(setting.key)} ({setting.origin}); {meaning}")
                raise ConfigError(f"{_dotted(key)} ({setting.origin}): {here} is a value, not a section")
        node[name] = with_current_names(setting.value, key)
        self.origins[key] = setting.origin

    def written(self, key: Key) -> Key:
        """What the user wrote that made this key: the key itself, something in it, or a section around it."""
        inside = (one for one in self.origins if one[: len(key)] == key)
        around = (key[:length] for length in range(len(key) - 1, 0, -1) if key[:length] in self.origins)
        return next(inside, None) or next(around, key)

    def origin(self, key: Key) -> str:
        """Where the value at a key came from."""
        return self.origins.get(self.written(key), "defaults")


def load_settings(
    *, base: RunSettings | None = None, file: Path | None = None, overrides: Iterable[Setting] = ()
) -> RunSettings:
    """A recipe (or the defaults), changed by a file, changed by the command line.

    Raises:
        ConfigError: the file cannot be read; unknown keys, wrong values, or values that do not go together.
    """
    tree = _Tree((base or RunSettings()).model_dump(mode="json"))
    for setting in (*(read_yaml(file) if file else ()), *overrides):
        tree.put(setting)
    try:
        return RunSettings.model_validate(tree.values)
    except ValidationError as error:
        problems = [_explain(problem, tree) for problem in error.errors()]
    raise ConfigError("\n".join(dict.fromkeys(problems)))


def validated(kind: type[SettingsT], values: Mapping[str, Any]) -> SettingsT:
    """Settings of one kind from plain values, for those that are no part of a run's.

    Raises:
        ConfigError: unknown keys or wrong values; all of them are named.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = [_problem_of(kind, problem) for problem in error.errors()]
    raise ConfigError("\n".join(dict.fromkeys(problems)))


def _problem_of(kind: type[BaseModel], problem: Mapping[str, Any]) -> str:
    name = _dotted(tuple(map(str, problem["loc"])))
    if problem["type"] == "extra_forbidden":
        return f"unknown setting {name}; expected some of {', '.join(setting_names(kind))}"
    return f"{name}: {_got_and_expected(problem)}" if name else _got_and_expected(problem)


def read_yaml(path: Path) -> list[Setting]:
    """The leaves of a YAML file, each with its line.

    Raises:
        ConfigError: no readable file, no YAML, or no mapping.
    """
    try:
        root = parse_yaml(read_text(path))
        if root is None:
            return []
        if isinstance(root, yaml.MappingNode):
            return list(_leaves(root, (), path.name))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the settings in {path}: {error}; give the path of a YAML file") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no YAML: {' '.join(str(error).split())}; correct it there") from error
    raise ConfigError(f"{path} holds no settings; expected a mapping, for instance a line `trainer: {{steps: 10}}`")


def read_overrides(arguments: Sequence[str]) -> list[Setting]:
    """`trainer.steps=10`, `--trainer.steps 10` and `--trainer.steps=10`; values are YAML, dashes in keys underscores.

    Raises:
        ConfigError: an argument without a value, or a value that is no YAML.
    """
    found: list[Setting] = []
    rest = iter(arguments)
    for argument in rest:
        key, equals, value = argument.removeprefix("--").partition("=")
        if not equals:
            following = next(rest, None) if argument.startswith("--") else None
            if following is None or following.startswith("--"):
                if meaning := _meaning(key):
                    raise ConfigError(f"unknown setting {key} (command line); {meaning}")
                raise ConfigError(
                    f"{argument!r} has no value; expected {key}=VALUE (settings are written section.name=value)"
                )
            value = following
        found.append(
            Setting(key=tuple(key.replace("-", "_").split(".")), value=_value(key, value), origin="command line")
        )
    return found


def written_names(settings: Iterable[Setting]) -> set[str]:
    """Dotted names of what the user wrote; a section that was written as one value counts by its parts."""
    return {_dotted(key) for setting in settings for key in _leaf_keys(setting.key, setting.value)}


def _leaf_keys(key: Key, value: Any) -> Iterator[Key]:
    if not isinstance(value, Mapping):
        yield key
        return
    for name, inner in value.items():
        yield from _leaf_keys((*key, str(name)), inner)


def setting_names(model: type[BaseModel] = RunSettings) -> Iterator[str]:
    """Every dotted name, sections included."""
    for name, info in model.model_fields.items():
        yield name
        section = _section(info.annotation)
        if section is not None:
            yield from (f"{name}.{inner}" for inner in setting_names(section))


def _sections() -> set[str]:
    """The names of the sections that hold settings of ours."""
    return {name for name, info in RunSettings.model_fields.items() if _section(info.annotation) is not None}


def _section(annotation: Any) -> type[BaseModel] | None:
    """The settings class of a field that holds one, perhaps optionally."""
    choices = (annotation, *get_args(annotation))
    return next((c for c in choices if isinstance(c, type) and issubclass(c, BaseModel)), None)


def _leaves(node: yaml.MappingNode, above: Key, name: str) -> Iterator[Setting]:
    for key_node, value_node in node.value:
        key = (*above, str(key_node.value))
        if isinstance(value_node, yaml.MappingNode) and value_node.value:
            yield from _leaves(value_node, key, name)
        else:
            value = yaml_value(value_node)
            yield Setting(key=key, value=value, origin=f"{name} line {key_node.start_mark.line + 1}")


def _value(key: str, text: str) -> Any:
    try:
        root = parse_yaml(text)
        return None if root is None else yaml_value(root)
    except yaml.YAMLError as error:
        raise ConfigError(f"{key}: {text!r} is no YAML value; quote it") from error


def _explain(problem: Mapping[str, Any], tree: _Tree) -> str:
    """One line: what was got, where it was written, what was expected."""
    key = tuple(str(part) for part in problem["loc"])
    named = _named(key, tree)
    where = f"{_dotted(named)} ({tree.origin(named)})" if named else "settings"
    if problem["type"] == "extra_forbidden":
        name = _dotted(tree.written(key))
        meaning = _meaning(name) or f"the nearest is {_nearest(name)}"
        return f"unknown setting {name} ({tree.origin(key)}); {meaning}"
    return f"{where}: {_got_and_expected(problem)}"


def _got_and_expected(problem: Mapping[str, Any]) -> str:
    if problem["type"] == "value_error":
        return str(problem["msg"]).removeprefix("Value error, ")
    expected = str(problem["msg"]).removeprefix("Input should be ").partition(", unable")[0]
    return f"got {problem['input']!r}, expected {'more values' if problem['type'] == 'missing' else expected}"


def _named(key: Key, tree: _Tree) -> Key:
    """The part of an error's place that names a setting, or a name that the user gave: pydantic goes on into unions."""
    known = set(setting_names())
    parts = (key[:length] for length in range(len(key), 0, -1))
    return next((part for part in parts if _dotted(part) in known or part in tree.origins), ())


def _meaning(name: str) -> str | None:
    """What a name that others give a setting means here; None for a name that nobody is known to use.

    Whoever writes one of our sections means a setting in it: a hint that leads out of it would be wrong.
    """
    above, _, last = name.replace("-", "_").rpartition(".")
    section = above.partition(".")[0]
    ours = section in _sections() - {"trainer"}  # verl has a section of this name, too
    here = NAME_HERE.get(last)
    if here is not None and (not ours or here.startswith(f"{section}.")):
        return f"the nearest by meaning is {here}"
    return None if ours else NOT_HERE.get(last)


def _nearest(name: str) -> str:
    """The known name that the user most likely meant: the same word in another section first."""
    known = list(setting_names())
    last = name.rpartition(".")[2]
    same = [one for one in known if one.rpartition(".")[2] == last]
    near = get_close_matches(name, same, n=1, cutoff=0.9) or same or get_close_matches(name, known, n=1, cutoff=0.0)
    return " or ".join(near)


def _dotted(key: Key) -> str:
    return ".".join(key)
