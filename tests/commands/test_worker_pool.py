"""Jobs done one after another by a few processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from fission_grpo.commands.worker_pool import Job, WorkerPool, work
from fission_grpo.errors import FissionError


def job(folder: Path, name: str, code: str = "pass", *, after: tuple[str, ...] = ()) -> Job:
    """A job that runs Python code and then leaves its product."""
    product = folder / f"{name}.done"
    script = f"{code}\nimport pathlib; pathlib.Path({str(product)!r}).touch()"
    log = folder / "logs" / f"{name}.log"
    return Job(name=name, run=partial(exec, script, {}), log=log, product=product, after=after)


def until(path: Path) -> str:
    """Code that waits for a file."""
    return f"import pathlib, time\nwhile not pathlib.Path({str(path)!r}).exists(): time.sleep(0.01)\n"


def silent(line: str) -> None:
    """Nobody listens."""


def test_a_job_waits_for_what_it_needs(tmp_path: Path) -> None:
    first = job(tmp_path, "first")
    second = job(tmp_path, "second", f"import os; assert os.path.exists({str(first.product)!r})", after=("first",))
    lines: list[str] = []
    work([second, first], workers=2, report=lines.append)
    assert (tmp_path / "second.done").exists()
    assert [line.split()[-1] for line in lines if "begins" in line] == ["first", "second"]


def test_what_is_finished_is_not_done_again(tmp_path: Path) -> None:
    (tmp_path / "first.done").touch()
    first = job(tmp_path, "first", "raise SystemExit('must not run')")
    work([first, job(tmp_path, "second", after=("first",))], workers=1, report=silent)
    assert (tmp_path / "second.done").exists()


def test_a_job_finds_what_the_one_before_it_left_in_memory(tmp_path: Path) -> None:
    marking = job(tmp_path, "first", "import os, sys; sys.mark = os.getpid(); print(os.getpid())")
    finding = job(tmp_path, "second", "import os, sys; assert sys.mark == os.getpid(); print(os.getpid())")
    work([marking, finding], workers=1, report=silent)
    assert marking.log.read_text() == finding.log.read_text() != f"{os.getpid()}\n"


def test_jobs_run_side_by_side(tmp_path: Path) -> None:
    first = job(tmp_path, "first", until(tmp_path / "second.done"))
    work([first, job(tmp_path, "second")], workers=2, report=silent)
    assert (tmp_path / "first.done").exists()


def test_each_job_has_a_log_of_its_own(tmp_path: Path) -> None:
    say = "import os, sys; print({0!r}); os.system('echo child of {0}'); sys.stderr.write('error of {0}\\n')"
    told = [job(tmp_path, name, say.format(name)) for name in ("first", "second")]
    work(told, workers=1, report=silent)
    for one in told:
        assert sorted(one.log.read_text().splitlines()) == [f"child of {one.name}", f"error of {one.name}", one.name]


def test_a_process_that_died_while_it_waited_is_told(tmp_path: Path) -> None:
    marking = job(tmp_path, "first", "import os; print(os.getpid())")
    with WorkerPool(1) as pool:
        pool.begin(marking)
        process = int(pool.next_finished().log.read_text())
        os.kill(process, signal.SIGKILL)
        os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
        with pytest.raises(FissionError, match=r"second could not begin: the process .* is gone"):
            pool.begin(job(tmp_path, "second"))


@pytest.mark.parametrize(
    "code",
    [
        "raise SystemExit('no such luck')",
        "raise ValueError('no such luck')",
        "import os; os.write(2, b'no such luck'); os._exit(0)",
        "import os, signal; os.write(2, b'no such luck'); os.kill(os.getpid(), signal.SIGKILL)",
    ],
)
def test_a_failed_job_is_named_with_the_end_of_its_log(tmp_path: Path, code: str) -> None:
    with pytest.raises(FissionError, match=r"broken failed.*(?s:.*)no such luck"):
        work([job(tmp_path, "fine"), job(tmp_path, "broken", code)], workers=1, report=silent)
    assert (tmp_path / "fine.done").exists()


def test_jobs_beside_a_failed_one_are_ended(tmp_path: Path) -> None:
    endless = job(tmp_path, "long", "import signal\nwhile True: signal.pause()")
    with pytest.raises(FissionError, match="broken failed"):
        work([endless, job(tmp_path, "broken", "raise SystemExit(1)")], workers=2, report=silent)
    assert not (tmp_path / "long.done").exists()


def test_a_training_that_is_ended_saves_first(tmp_path: Path) -> None:
    """It takes the signal as a request, as `Interruption` does."""
    code = (
        "import pathlib, time\n"
        "from fission_grpo.run.interruption import Interruption\n"
        "with Interruption() as asked:\n"
        f"    pathlib.Path({str(tmp_path / 'training')!r}).touch()\n"
        "    while not asked(): time.sleep(0.01)\n"
        f"    pathlib.Path({str(tmp_path / 'saved')!r}).touch()\n"
        "raise SystemExit(130)"
    )
    failing = job(tmp_path, "broken", until(tmp_path / "training") + "raise SystemExit(1)")
    with pytest.raises(FissionError, match="broken failed"):
        work([job(tmp_path, "long", code), failing], workers=2, report=silent)
    assert (tmp_path / "saved").exists()


def test_a_process_leaves_ctrl_c_to_whoever_started_it(tmp_path: Path) -> None:
    work([job(tmp_path, "first", "import os, signal; os.kill(os.getpid(), signal.SIGINT)")], workers=1, report=silent)
    assert (tmp_path / "first.done").exists()


OWNER = (
    "import sys\n"
    "from pathlib import Path\n"
    "from fission_grpo.commands.worker_pool import Job, work\n"
    "from fission_grpo.run.interruption import heed_termination\n"
    "from functools import partial\n"
    "if __name__ == '__main__':\n"
    "    heed_termination()\n"
    "    folder = Path(sys.argv[1])\n"
    "    jobs = [Job(name=n, run=partial(exec, sys.argv[2].format(n=n), {}), log=folder / f'{n}.log') for n in 'ab']\n"
    "    work(jobs, workers=2, report=print)\n"
)
ENDLESS = (
    "import os, pathlib, time\n"
    "place = pathlib.Path({folder!r}) / '{{n}}'\n"
    "place.with_suffix('.half').write_text(str(os.getpid()))\n"
    "place.with_suffix('.half').rename(place.with_suffix('.pid'))\n"
    "try:\n"
    "    while True: time.sleep(0.01)\n"
    "finally:\n"
    "    place.with_suffix('.left').touch()\n"
)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_processes_end_with_whoever_started_them(tmp_path: Path, number: signal.Signals) -> None:
    """However it ends: they once went on writing into the folder that the next start used."""
    script = tmp_path / "owner.py"  # what is spawned imports it again
    script.write_text(OWNER)
    owner = subprocess.Popen([sys.executable, script, tmp_path, ENDLESS.format(folder=str(tmp_path))])
    places = [tmp_path / "a.pid", tmp_path / "b.pid"]
    wait_for(lambda: all(place.exists() for place in places))
    owner.send_signal(number)
    code = owner.wait()
    assert code != 0
    workers = [int(place.read_text()) for place in places]
    wait_for(lambda: not any(map(alive, workers)))
    assert (tmp_path / "a.left").exists()  # through every `finally` on the way
    assert (tmp_path / "b.left").exists()


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked about does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_for(condition: Callable[[], bool]) -> None:
    while not condition():  # the suite's time-out ends a test that waits in vain
        time.sleep(0.01)
