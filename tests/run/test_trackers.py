"""What trackers of others are told, and what becomes of a run when one is missing or breaks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from page_runs import family, row, write_run

from fission_grpo.commands import tracking as commands_tracking
from fission_grpo.commands.tracking import tracking
from fission_grpo.config import load_settings, read_overrides
from fission_grpo.errors import ConfigError
from fission_grpo.run.folder import RunFolder
from fission_grpo.run.follow import Follower
from fission_grpo.run.trackers import TrackerName, Trackers, open_trackers, require_trackers, tracked_values


class Told:
    """A tracker by accelerate's protocol that remembers, and can break."""

    def __init__(self, *, breaks_at: int | None = None) -> None:
        self.lines: list[tuple[int | None, dict[str, Any]]] = []
        self.finished = False
        self._breaks_at = breaks_at

    def log(self, values: dict[str, Any], step: int | None = None) -> None:
        if step == self._breaks_at:
            raise OSError("no network")
        self.lines.append((step, values))

    def finish(self) -> None:
        self.finished = True


@contextmanager
def opened(tracker: Told) -> Iterator[Trackers]:
    yield Trackers({TrackerName.TRACKIO: tracker})


def test_ours_stand_beside_trls_names() -> None:
    told = tracked_values(
        {
            **{"step": 3, "reward": 0.5, "update/kl": 0.25, "rewards/verdict": 1, "fission/rewards/verdict": 0.75},
            **{"time/explore": 1.0, "time/update": 3.0, "note": "words", "update/loss": None, "flag": True},
        }
    )
    assert told == {
        **{"reward": 0.5, "update/kl": 0.25, "rewards/verdict": 1.0, "fission/rewards/verdict": 0.75},
        **{"time/explore": 1.0, "time/update": 3.0},
        **{"train/reward": 0.5, "train/kl": 0.25, "train/rewards/verdict/mean": 1.0, "train/step_time": 4.0},
    }


def test_a_tracker_that_breaks_is_left_out_and_the_others_go_on() -> None:
    broken, sound = Told(breaks_at=1), Told()
    trackers = Trackers({TrackerName.TRACKIO: broken, TrackerName.TENSORBOARD: sound})
    trackers.log({"step": 0, "reward": 0.5})
    with pytest.warns(UserWarning, match="tracker trackio: OSError: no network; it is told no more, and the files"):
        trackers.log({"step": 1, "reward": 0.5})
    trackers.log({"step": 2, "reward": 0.5})
    trackers.show_tree("tree", step=2)
    trackers.finish()
    assert [step for step, _ in broken.lines] == [0]
    assert [step for step, _ in sound.lines] == [0, 1, 2, 2]
    assert sound.lines[-1][1] == {"fission/tree": "```\ntree\n```"}
    assert (broken.finished, sound.finished) == (False, True)


def test_a_file_is_read_on_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    follower = Follower(path)
    assert list(follower.new()) == []
    path.write_text('{"a": 1}\n{"a": ')
    assert list(follower.new()) == [{"a": 1}]
    with path.open("a") as file:
        file.write('2}\n{"a": 3}\n')
    assert list(follower.new()) == [{"a": 2}, {"a": 3}]
    assert list(Follower(path, from_end=True).new()) == []


def test_settings_name_trackers_and_a_resumed_run_may_change_them(tmp_path: Path) -> None:
    chosen = load_settings(overrides=read_overrides(["trackers=[tensorboard]"]))
    assert chosen.trackers == (TrackerName.TENSORBOARD,)
    assert "trackers" not in load_settings().saved()  # as in folders that are older
    RunFolder(tmp_path / "run").create(load_settings().saved(), resume=False)
    RunFolder(tmp_path / "run").check(chosen.saved(), resume=True)
    with pytest.raises(ConfigError, match="got 'paper', expected 'trackio', 'wandb', 'tensorboard' or 'mlflow'"):
        load_settings(overrides=read_overrides(["trackers=[paper]"]))
    with pytest.raises(ConfigError, match="the nearest by meaning is trackers"):
        load_settings(overrides=read_overrides(["report_to=wandb"]))


def test_a_tracker_that_is_not_installed_is_told_before_anything_is_spent() -> None:
    missing = [name for name in TrackerName if name is not TrackerName.TENSORBOARD and find_spec(name) is None]
    if not missing:
        pytest.skip("all of them are installed")
    with pytest.raises(ConfigError, match=f"tracker {missing[0]} is not installed; install it"):
        require_trackers([missing[0]])


def test_each_new_step_is_told_and_a_tree_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps are there before; two more come, the second with a tree."""
    run = write_run(tmp_path / "run", [*family(0), *family(1)])
    told = Told()
    monkeypatch.setattr(commands_tracking, "TREE_EVERY", 3)
    monkeypatch.setattr(commands_tracking, "open_trackers", lambda *_: opened(told))
    settings = load_settings(overrides=read_overrides([f"output={run}", "trackers=[trackio]"]))
    with tracking(settings, is_main_process=True) as tell:
        tell()
        assert told.lines == []
        for step in (2, 3):
            with (run / "traces.jsonl").open("a") as file:
                file.write("".join(json.dumps(group) + "\n" for group in family(step)))
            with (run / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(row(step)) + "\n")
            tell()
    assert [step for step, _ in told.lines] == [2, 3, 3]
    assert "✗" in told.lines[-1][1]["fission/tree"]
    with tracking(settings, is_main_process=False) as tell:
        tell()
    assert len(told.lines) == 3


def test_tensorboard_keeps_every_step_and_the_tree(tmp_path: Path) -> None:
    """The real one, through accelerate."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with open_trackers([TrackerName.TENSORBOARD], tmp_path, {"model": "nano", "trainer": {"steps": 2}}) as trackers:
        for step in range(2):
            trackers.log({"step": step, "reward": 0.25 + step})
        trackers.show_tree("the tree", step=1)
    kept = EventAccumulator(str(tmp_path / "tensorboard"))
    kept.Reload()
    for name in ("reward", "train/reward"):
        assert [(one.step, one.value) for one in kept.Scalars(name)] == [(0, 0.25), (1, 1.25)]
    (text,) = kept.Tensors("fission/tree/text_summary")
    assert b"the tree" in text.tensor_proto.string_val[0]
