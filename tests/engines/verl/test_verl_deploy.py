"""What the files of `deploy/` start, taken by the command line itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from deployed import LINES, fission_arguments
from transformers import Qwen3Config
from typer.testing import CliRunner

from fission_grpo.cli import app
from fission_grpo.models.catalog import load_chat


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of Qwen3-1.7B's shape without its weights, which no plan reads."""
    folder = tmp_path_factory.mktemp("qwen3")
    config = Qwen3Config(
        vocab_size=151936,
        hidden_size=2048,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        intermediate_size=6144,
        max_position_embeddings=40960,
        tie_word_embeddings=True,
        architectures=["Qwen3ForCausalLM"],
    )
    config.save_pretrained(folder)
    load_chat("nano").tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("cluster", "machines"), [("skypilot", 1), ("slurm", 2), ("kuberay", 2)])
def test_the_line_of_a_cluster_is_one_that_would_run(
    cluster: str, machines: int, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = fission_arguments(LINES[cluster](tmp_path / "stand-ins"))
    given[given.index("--model") + 1] = str(model)
    given[given.index("--output") + 1] = str(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    told = CliRunner().invoke(app, [*given, "--dry-run", "--json"])
    assert told.exit_code == 0, told.output
    values = json.loads(told.stdout)["plan"]["verl"]
    assert (values["trainer.nnodes"], values["trainer.n_gpus_per_node"]) == (machines, 8)
    assert (values["trainer.save_freq"], values["trainer.resume_mode"]) == (10, "disable")
    assert not (tmp_path / "run").exists()
