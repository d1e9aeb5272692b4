from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fission_grpo.errors import ConfigError, DataError, FissionError
from fission_grpo.files import read_json, read_jsonl, write_pieces, write_text
from fission_grpo.run.folder import RunFolder

SETTINGS: dict[str, Any] = {"seed": 1, "trainer": {"steps": 100, "beta": 0.02}, "data": None}


def folder(path: Path) -> RunFolder:
    run = RunFolder(path / "run")
    run.create(SETTINGS, resume=False)
    return run


# Settings.


def test_a_run_goes_on_by_the_former_names_of_its_settings(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.create({"worlds": {"shop": "own:Shop"}, "synthetic": {"moments": True, "count": 3}}, resume=False)
    now = {"environments": {"shop": "own:Shop"}, "synthetic": {"decision_positions": True, "count": 3}}
    run.check(now, resume=True)
    with pytest.raises(ConfigError, match=r"other settings \(synthetic\.decision_positions\)"):
        run.check({**now, "synthetic": {"decision_positions": False, "count": 3}}, resume=True)


def test_a_folder_that_holds_a_run_is_not_overwritten(tmp_path: Path) -> None:
    run = folder(tmp_path)
    run.append(run.metrics, [{"step": 0}])
    with pytest.raises(ConfigError, match="already holds a run; continue it with --resume or choose another --output"):
        run.create(SETTINGS, resume=False)
    assert list(read_jsonl(run.metrics)) == [{"step": 0}]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({**SETTINGS, "seed": 2}, "seed"),
        ({**SETTINGS, "trainer": {"steps": 100, "beta": 0.5}}, "trainer.beta"),
        ({**SETTINGS, "more": 1}, "more"),
        ({key: value for key, value in SETTINGS.items() if key != "seed"}, "seed"),
    ],
)
def test_resume_refuses_other_settings_and_names_them(tmp_path: Path, changed: dict[str, Any], named: str) -> None:
    run = folder(tmp_path)
    before = run.config.read_text()
    with pytest.raises(ConfigError, match=rf"started with other settings \({named}\)"):
        run.create(changed, resume=True)
    assert run.config.read_text() == before


def test_resume_takes_the_same_settings_and_more_steps(tmp_path: Path) -> None:
    run = folder(tmp_path)
    run.create(SETTINGS, resume=True)
    run.create({**SETTINGS, "trainer": {"steps": 200, "beta": 0.02}}, resume=True)
    assert "steps: 200" in run.config.read_text()


def test_a_section_under_its_former_name_is_the_same_setting(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.create({**SETTINGS, "worlds": {"library": "shop:Library"}}, resume=False)  # as version 0.1 wrote it
    run.check({**SETTINGS, "environments": {"library": "shop:Library"}}, resume=True)
    with pytest.raises(ConfigError, match=r"other settings \(environments.library\)"):
        run.check({**SETTINGS, "environments": {"library": "other:Library"}}, resume=True)


@pytest.mark.parametrize("text", ["", "# nothing\n", "steps", "- 1", "trainer: {", "a: b: c", b"\xff\xfe"])
def test_settings_that_are_damaged_are_told_in_one_sentence(tmp_path: Path, text: str | bytes) -> None:
    run = folder(tmp_path)
    run.config.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=r"config\.yaml holds no settings \(.+\); restore it or choose") as error:
        run.check(SETTINGS, resume=True)
    assert "\n" not in str(error.value)


def test_resume_of_nothing_is_a_fresh_run(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.create(SETTINGS, resume=True)
    assert run.latest_checkpoint() is None
    assert run.checkpoints.is_dir()


# Lines.

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
RECORDS = st.lists(st.dictionaries(st.text(), JSON, max_size=3), max_size=4)


@given(RECORDS, RECORDS)
def test_what_is_appended_is_read_back(tmp_path_factory: pytest.TempPathFactory, first: Any, second: Any) -> None:
    run = RunFolder(tmp_path_factory.mktemp("run"))
    run.append(run.traces, first)
    run.append(run.traces, second)
    assert list(read_jsonl(run.traces)) == [*first, *second]


def test_half_a_surrogate_pair_survives(tmp_path: Path) -> None:
    """A tool may return what UTF-8 cannot hold; neither the line nor the run is lost."""
    run = folder(tmp_path)
    record = {"step": 0, "text": "\ud83d and \\ud83d and ☃"}
    run.append(run.traces, [record])
    assert list(read_jsonl(run.traces)) == [record]
    run.truncate_after(1)
    assert list(read_jsonl(run.traces)) == [record]


def test_a_last_line_that_a_crash_cut_off_is_passed_over_wherever_it_was_cut(tmp_path: Path) -> None:
    run = folder(tmp_path)
    run.append(run.metrics, [{"step": 0}, {"step": 1, "text": "snow ☃ man"}])
    whole = run.metrics.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(first, len(whole)):  # in the middle of the snowman, too
        run.metrics.write_bytes(whole[:cut])
        assert list(read_jsonl(run.metrics)) == [{"step": 0}]


def test_a_resumed_run_forgets_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    run = folder(tmp_path)
    run.append(run.metrics, [{"step": step} for step in range(5)])
    run.append(run.traces, [{"step": step, "group": group} for step in range(5) for group in range(2)])
    with run.metrics.open("a") as file:
        file.write('{"step": 5, "rew')
    run.truncate_after(3)
    assert [record["step"] for record in read_jsonl(run.metrics)] == [0, 1, 2]
    assert [record["step"] for record in read_jsonl(run.traces)] == [0, 0, 1, 1, 2, 2]
    run.append(run.metrics, [{"step": 3}])
    assert [json.loads(line)["step"] for line in run.metrics.read_text().splitlines()] == [0, 1, 2, 3]


@pytest.mark.parametrize("damaged", ['{"step": 1, "rew', "[1]", "", "\x00\x00"])
def test_a_damaged_line_in_the_middle_is_named_and_the_file_kept(tmp_path: Path, damaged: str) -> None:
    run = folder(tmp_path)
    text = f'{{"step": 0}}\n{damaged}\n{{"step": 2}}\n{{"st'
    run.metrics.write_text(text)
    with pytest.raises(DataError, match=r"metrics\.jsonl: 1 problem") as error:
        run.truncate_after(1)
    assert error.value.problems == (f"line 2: found {damaged!r}, expected a JSON object; restore or delete the line",)
    assert run.metrics.read_text() == text
    assert not list(run.path.glob(".*"))


@pytest.mark.parametrize("steps", [[], [0], [0, 2], [0, 1, 1], [0, 1, 2, 2, 1]])
def test_metrics_of_other_steps_than_the_run_has_made_are_told(tmp_path: Path, steps: list[int]) -> None:
    run = folder(tmp_path)
    run.append(run.metrics, [{"step": step} for step in steps])
    with pytest.warns(UserWarning, match=rf"holds {len(steps)} line\(s\) of the 3 step\(s\) so far"):
        run.compare_metrics(3)


def test_metrics_of_every_step_are_no_reason_to_warn(tmp_path: Path) -> None:
    run = folder(tmp_path)
    run.compare_metrics(0)
    run.append(run.metrics, [{"step": 0}, {"step": 1}])
    run.compare_metrics(2)


def test_a_line_without_a_step_is_named_and_the_file_kept(tmp_path: Path) -> None:
    run = folder(tmp_path)
    run.metrics.write_text('{"step": 0}\n{"loss": 1}\n')
    with pytest.raises(DataError) as error:
        run.truncate_after(1)
    assert error.value.problems == (
        "line 2: found '{\"loss\": 1}', expected the key 'step'; restore or delete the line",
    )
    assert run.metrics.read_text() == '{"step": 0}\n{"loss": 1}\n'


def test_a_long_damaged_line_is_not_repeated_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "traces.jsonl").write_bytes(b"\xff" + b"x" * 10_000 + b"\n")
    with pytest.raises(DataError) as error:
        list(read_jsonl(tmp_path / "traces.jsonl"))
    assert len(str(error.value)) < 300


def test_a_line_that_is_too_long_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fission_grpo.files.MAX_LINE", 20)
    (tmp_path / "traces.jsonl").write_text('{"step": 0}\n' + " " * 30)
    lines = read_jsonl(tmp_path / "traces.jsonl")
    assert next(lines) == {"step": 0}
    with pytest.raises(DataError, match="line 2: has more than 20 bytes"):
        next(lines)


def test_a_line_that_is_nested_too_deeply_is_named(tmp_path: Path) -> None:
    (tmp_path / "traces.jsonl").write_text("[" * 100_000 + "\n")
    with pytest.raises(DataError, match=r"line 1: found .*, expected a JSON object"):
        list(read_jsonl(tmp_path / "traces.jsonl"))


def test_forgetting_needs_no_files(tmp_path: Path) -> None:
    folder(tmp_path).truncate_after(0)


def test_a_full_disk_is_reported_with_a_remedy(tmp_path: Path) -> None:
    run = folder(tmp_path)
    with pytest.raises(
        FissionError, match=r"cannot write /dev/full: No space left on device; free some space"
    ) as error:
        run.append(Path("/dev/full"), [{"step": 0}])
    assert str(run.checkpoints) in str(error.value)
    assert "--resume" in str(error.value)


def test_a_full_disk_while_a_checkpoint_is_written_leaves_the_last_one_whole(tmp_path: Path) -> None:
    run = folder(tmp_path)
    write(run, 1)

    def refuse(path: Path) -> None:
        (path / "part").write_text("half")
        Path("/dev/full").write_text("more")

    with pytest.raises(FissionError, match=r"cannot write .*step-2: No space left on device; free some space"):
        run.write_checkpoint(2, refuse)
    assert run.latest_checkpoint() == run.checkpoints / "step-1"


def test_numbers_that_json_does_not_have_are_refused(tmp_path: Path) -> None:
    run = folder(tmp_path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.append(run.metrics, [{"loss": float("nan")}])
    assert not run.metrics.exists()


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "summary.md"
    write_text(path, "old")
    write_text(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    write_text(path, "old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: '.*tasks\.jsonl'"):
            write_pieces(path, ["x" * 1000])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_breaks_while_a_file_is_written_leaves_the_old_one_alone(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    write_text(path, "old")

    def pieces() -> Iterator[str]:
        yield "half"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_pieces(path, pieces())
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    write_pieces(path, ["a\n", "\ud83d\n"])
    assert path.read_text() == "a\n\\ud83d\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a": 1', r"is no JSON \(Expecting ',' delimiter.*\)"),
        ("", r"is no JSON \(.*\)"),
        (b"\xff", r"is no JSON \(.*\)"),
        ("[1]", "holds list, expected a JSON object"),
        ("{}", "has no key 'a'"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_a_json_file_that_cannot_be_read_is_told_in_one_sentence(
    tmp_path: Path, text: str | bytes | None, why: str
) -> None:
    path = tmp_path / "note.json"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=rf"^{path} {why}; restore it$"):
        read_json(path, "a", remedy="restore it")
    path.write_text('{"a": 1, "b": 2}')
    assert read_json(path, "a", remedy="restore it") == {"a": 1, "b": 2}


# Checkpoints.


def write(run: RunFolder, step: int) -> None:
    run.write_checkpoint(step, lambda path: write_text(path / "state", f"{step}"))


def test_the_newest_two_checkpoints_are_kept_by_number_not_by_name(tmp_path: Path) -> None:
    run = folder(tmp_path)
    for step in (8, 9, 10):
        write(run, step)
        assert run.latest_checkpoint() == run.checkpoints / f"step-{step}"
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["step-10", "step-9"]


def test_only_a_number_makes_a_checkpoint(tmp_path: Path) -> None:
    run = folder(tmp_path)
    kept = ["step-3-backup", "step-", "step-x", "step-9.old", "my-step-9"]
    for name in kept:
        (run.checkpoints / name).mkdir()
    write_text(run.checkpoints / "step-77", "a note")
    assert run.latest_checkpoint() is None
    for step in (1, 2, 3):
        write(run, step)
    assert run.complete_checkpoints() == [run.checkpoints / "step-2", run.checkpoints / "step-3"]
    assert {*kept, "step-77"} < {path.name for path in run.checkpoints.iterdir()}


def test_a_checkpoint_that_crashed_has_no_name(tmp_path: Path) -> None:
    run = folder(tmp_path)
    write(run, 1)

    def crash(path: Path) -> None:
        write_text(path / "state", "half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.write_checkpoint(2, crash)
    latest = run.latest_checkpoint()
    assert latest == run.checkpoints / "step-1"
    assert (latest / "state").read_text() == "1"
    write(run, 2)
    assert (run.checkpoints / "step-2" / "state").read_text() == "2"
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["step-1", "step-2"]


def test_a_checkpoint_may_be_written_again(tmp_path: Path) -> None:
    run = folder(tmp_path)
    write(run, 3)
    run.write_checkpoint(3, lambda path: write_text(path / "state", "again"))
    assert (run.checkpoints / "step-3" / "state").read_text() == "again"
