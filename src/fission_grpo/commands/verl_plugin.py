"""verl's plug-in: what `import verl` loads in the driver and in every Ray worker (entry point `verl.plugins`).

Trainer, agent loop and data set of `engines/verl` on the settings of a run, which travel in verl's own configuration as
`data.fission`: the path of a settings file, or the settings as JSON text, which is what every other process gets.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from omegaconf import open_dict
from torch.utils.data import Dataset
from verl.experimental.agent_loop.agent_loop import register
from verl.trainer.ppo.v1.trainer_base import register_trainer

from fission_grpo.algorithm.losses import OBJECTIVES
from fission_grpo.algorithm.source import FissionSource
from fission_grpo.assembly import (
    ENVIRONMENTS,
    Groundwork,
    chat_of_run,
    judge_of_run,
    lay_groundwork,
    with_own_environments,
)
from fission_grpo.config import RunSettings, Setting, load_settings
from fission_grpo.engines.player import DialoguePlayer, judge_of_one, packed_start
from fission_grpo.engines.verl.loop import START, FissionLoop
from fission_grpo.engines.verl.trainer import LOOP, FissionTrainer, StepRecord
from fission_grpo.engines.verl.tree_engine import BACKEND, SHARING
from fission_grpo.engines.verl.tree_rows import PrefixTreeRows
from fission_grpo.errors import ConfigError
from fission_grpo.run.folder import RunFolder
from fission_grpo.run.traces import trace

TRAINER_MODE = "fission"
"""`trainer.v1.trainer_mode`."""
DATA_SET = {"path": "pkg://fission_grpo.commands.verl_plugin", "name": "RunTasks"}
NAMES_HERE: Mapping[str, str] = MappingProxyType(
    {
        "actor/pg_loss": "update/loss",
        "actor/grad_norm": "update/grad_norm",
        "actor/entropy": "update/entropy",
        f"actor/{SHARING}": SHARING,
        "timing_s/gen": "time/sample",
        "timing_s/update_actor": "time/update",
    }
)
"""verl's names -> those of `metrics.jsonl`, which has both."""


def settings_json(settings: RunSettings) -> str:
    """As JSON, in which OmegaConf finds nothing to replace."""
    return json.dumps(settings.model_dump(mode="json")).replace("$", "\\u0024")


@cache
def settings_from(text: str) -> RunSettings:
    """What `settings_json` wrote."""
    return RunSettings.model_validate_json(text)


@cache
def ground_from(text: str) -> Groundwork:
    """Tasks and fission source, for the driver."""
    ground = lay_groundwork(settings_from(text))
    judge_of_one(ground.judge)  # here, and not only in a worker that has begun to play
    return ground


@cache
def player_from(text: str, window: int) -> DialoguePlayer:
    """Worlds and judge, for a worker; no task is read."""
    settings = settings_from(text)
    chat = chat_of_run(settings)
    return DialoguePlayer(
        chat=chat,
        environments=with_own_environments(ENVIRONMENTS, settings.environments),
        judge=judge_of_one(judge_of_run(settings, chat)),
        horizon=settings.trainer.horizon,
        recovery_horizon=settings.fission.horizon,
        rollouts=settings.rollouts,
        window=window,
    )


@register(LOOP)
class RunLoop(FissionLoop):
    """The loop of a run's settings."""

    def player(self) -> DialoguePlayer:
        """See `FissionLoop.player`."""
        return player_from(self.data_config.fission, int(self.rollout_config.max_model_len))


class RunTasks(Dataset[dict[str, Any]]):
    """The tasks of a run as verl's rows; validation plays the same ones."""

    def __init__(self, data_files: Any, tokenizer: Any, processor: Any, config: Any, max_samples: int = -1) -> None:
        """Take what verl gives every data set, and read the settings in `config.fission`."""
        tasks = ground_from(config.fission).tasks
        self._tasks = tasks if max_samples < 0 else tasks[:max_samples]

    def __len__(self) -> int:
        return len(self._tasks)

    def __getitem__(self, index: int) -> dict[str, Any]:
        task = self._tasks[index]
        return {
            "raw_prompt": [dict(message) for message in task.messages],
            "index": index,
            "data_source": LOOP,
            "reward_model": {},
            START: packed_start(task),
        }


@register_trainer(TRAINER_MODE)
class RunTrainer(PrefixTreeRows, FissionTrainer):
    """The trainer of a run's settings, which keeps a run folder of ours beside verl's trackers."""

    def __init__(self, config: Any) -> None:
        """See `FissionTrainer`.

        Raises:
            ConfigError: `data.fission` holds no settings; see `FissionTrainer`, too.
        """
        with open_dict(config):
            config.data.fission = self._text = _given(config)
            config.data.custom_cls = DATA_SET
        settings = settings_from(self._text)
        self._run = RunFolder(settings.folder)
        strategy = config.actor_rollout_ref.actor.strategy
        self.shares_prefixes = settings.trainer.tree and strategy == BACKEND
        if settings.trainer.tree and not self.shares_prefixes:
            logging.getLogger(__name__).warning("prefixes are not shared: verl's actor.strategy is %s", strategy)
        super().__init__(config)

    def _build_source(self) -> FissionSource:
        return ground_from(self._text).source

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        saved = settings_from(self._text).saved()
        self._run.create(saved, resume=self.config.trainer.resume_mode != "disable")
        self._run.truncate_after(self.global_steps)
        self._run.compare_metrics(self.global_steps)

    def on_step(self, step: int, record: StepRecord, metrics: Mapping[str, float]) -> None:
        """One line in `metrics.jsonl`, and one in `traces.jsonl` for each group."""
        groups = [*record.groups, *record.fission_groups]
        scale = OBJECTIVES[settings_from(self._text).trainer.objective].scale
        self._run.append(self._run.traces, (trace(group, step=step, scale=scale) for group in groups))
        ours = {name: metrics[theirs] for theirs, name in NAMES_HERE.items() if theirs in metrics}
        self._run.append(self._run.metrics, [{"step": step, **metrics, **ours}])


def _given(config: Any) -> str:
    """Settings as text, of whoever wrote verl's configuration: a path is read here, in the driver, and nowhere else.

    Model, run folder and size of a step are then verl's.

    Raises:
        ConfigError: there are none, or they cannot be read.
    """
    given = str(config.data.get("fission") or "")
    if given.startswith("{"):
        return given
    if not given:
        raise ConfigError("verl's data.fission names no settings of fission; add +data.fission=SETTINGS.yaml")
    trainer = config.trainer
    of_verl = {
        ("model",): str(config.actor_rollout_ref.model.path),
        ("output",): str(Path(trainer.default_local_dir) / "fission"),
        ("trainer", "group_size"): config.actor_rollout_ref.rollout.n,
        ("trainer", "queries"): config.data.train_batch_size,
    }
    verl = [Setting(key=key, value=value, origin="verl's configuration") for key, value in of_verl.items()]
    return settings_json(load_settings(file=Path(given).expanduser(), overrides=verl))
