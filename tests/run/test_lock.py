"""One writer for each folder."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fission_grpo.errors import ConfigError
from fission_grpo.run.lock import LOCK, writing_into

HOLDER = (
    "import sys\n"
    "from pathlib import Path\n"
    "from fission_grpo.run.lock import writing_into\n"
    "with writing_into(Path(sys.argv[1])):\n"
    "    print('held', flush=True)\n"
    "    sys.stdin.read()\n"
)


def holder(folder: Path) -> subprocess.Popen[str]:
    """Another process that writes into a folder until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_writer_is_refused_and_told_who_the_first_is(tmp_path: Path) -> None:
    with holder(tmp_path / "run") as other:
        owner = rf"process {other.pid} of {socket.gethostname()}, which began \d+ s ago"
        with pytest.raises(ConfigError, match=rf"run is being written by {owner}; wait for it, or choose another"):
            writing_into(tmp_path / "run").__enter__()
        other.communicate()
    with writing_into(tmp_path / "run"):
        pass


def test_the_same_process_is_refused_as_any_other(tmp_path: Path) -> None:
    with writing_into(tmp_path), pytest.raises(ConfigError, match=rf"by process {os.getpid()} of"):
        writing_into(tmp_path).__enter__()


def test_the_lock_of_a_killed_process_is_none(tmp_path: Path) -> None:
    with holder(tmp_path / "run") as other:
        other.send_signal(signal.SIGKILL)
    note = json.loads((tmp_path / "run" / LOCK).read_text())
    assert note["pid"] == other.pid
    with writing_into(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / LOCK).read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("note", ["", "{", "[1]", '{"pid": 1}', '{"pid": "x", "host": "h", "since": 0}'])
def test_an_owner_that_cannot_be_read_is_an_owner(tmp_path: Path, note: str) -> None:
    with holder(tmp_path) as other:
        (tmp_path / LOCK).write_text(note)
        with pytest.raises(ConfigError, match="is being written by another process"):
            writing_into(tmp_path).__enter__()
        other.communicate()


def test_of_many_that_begin_at_once_one_at_a_time_writes(tmp_path: Path) -> None:
    """Each adds a line as long as it is alone; whoever is refused begins again. No line is lost, none torn."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from fission_grpo.errors import ConfigError\n"
        "from fission_grpo.run.lock import writing_into\n"
        "folder, left = Path(sys.argv[1]), 40\n"
        "while left:\n"
        "    try:\n"
        "        with writing_into(folder):\n"
        "            count = folder / 'count'\n"
        "            number = int(count.read_text()) if count.exists() else 0\n"
        "            count.write_text(str(number + 1))\n"
        "            left -= 1\n"
        "    except ConfigError:\n"
        "        pass\n"
    )
    run = [sys.executable, "-c", code, str(tmp_path / "run")]
    processes = [subprocess.Popen(run) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert (tmp_path / "run" / "count").read_text() == "120"


def test_the_folder_holds_nothing_of_it_afterwards(tmp_path: Path) -> None:
    with writing_into(tmp_path / "a" / "run"):
        (tmp_path / "a" / "run" / "file").touch()
    assert [path.name for path in (tmp_path / "a" / "run").iterdir()] == ["file"]


def test_a_folder_that_was_made_for_nothing_goes_again(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no"), writing_into(tmp_path / "run"):
        raise ValueError("no")
    assert not (tmp_path / "run").exists()
    (tmp_path / "mine").mkdir()
    with writing_into(tmp_path / "mine"):
        pass
    assert (tmp_path / "mine").is_dir()


def test_halves_of_files_are_removed_by_the_next_writer(tmp_path: Path) -> None:
    (tmp_path / ".traces.jsonl.0a1b2c3d.unfinished").write_text("half")
    (tmp_path / ".policy.0a1b2c3d.unfinished").mkdir()
    (tmp_path / ".mine").write_text("whole")
    with writing_into(tmp_path):
        assert sorted(path.name for path in tmp_path.iterdir()) == [LOCK, ".mine"]


def test_a_file_in_the_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a note")
    with pytest.raises(ConfigError, match=r"cannot write .*run: File exists; choose another --output"):
        writing_into(tmp_path / "run").__enter__()


def test_without_locks_in_the_file_system_there_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: Any) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.warns(UserWarning, match="this file system has no locks; start nothing else"), writing_into(tmp_path):
        pass
