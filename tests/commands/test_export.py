"""A policy that leaves: the same tokens wherever it is loaded, nothing of it lost, and nothing of ours touched."""

from __future__ import annotations

import json
import shutil
from contextlib import chdir
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import pytest
import torch
import yaml
from chat_tokenizers import byte_tokenizer
from episodes import CALL, OTHER, episode, message
from safetensors.torch import load_file
from typer.testing import CliRunner

from fission_grpo.chat.format import ChatFormat
from fission_grpo.chat.templates import chat_template
from fission_grpo.cli import app
from fission_grpo.commands.export import CARD_FILE, export_policy
from fission_grpo.evaluation.heldout import save_parts
from fission_grpo.files import file_hash
from fission_grpo.models.catalog import Precision, load_chat, load_policy_model
from fission_grpo.models.serving import MODELFILE, serving_of
from fission_grpo.policy.base import Sampling
from fission_grpo.policy.local.hf_policy import HFPolicy
from fission_grpo.run.folder import RunFolder
from fission_grpo.tasks.synthesis.generator import synthesise
from fission_grpo.types import ErrorClass

TINY = (
    *("synthetic.count=4", "synthetic.apis=[TwitterAPI]", "synthetic.tools=[2, 3]", "trainer.steps=2"),
    *("trainer.queries=2", "trainer.group_size=2", "rollouts.max_tokens=8", "rollouts.max_turns=2"),
    *("fission.contexts=1", "fission.group_size=2", "trainer.learning_rate=1e-3"),
)
KINDS = {"full": (), "lora": ("lora.rank=4", "trainer.learning_rate=3e-2", "chat_template=hermes")}
TASKS = synthesise(3, 4, apis=("TwitterAPI",), tools=(2, 3))


@dataclass(frozen=True)
class Left:
    """A run, and what was exported of it from another folder than it was trained in."""

    kind: str
    run: Path
    base: Path
    folder: Path
    before: dict[str, str]
    """Hash of every file of run and base, as they were before the export."""


def fission(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return done.exit_code, done.output


def hashes(*folders: Path) -> dict[str, str]:
    return {str(path): file_hash(path) for folder in folders for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module", params=sorted(KINDS))
def left(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Left:
    home, away = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("away")
    base = Path(shutil.copytree(str(resources.files("fission_grpo.models") / "nano_weights"), home / "own"))
    (base / CARD_FILE).write_text("---\nlicense: mit\n---\n\n# own\n")
    with chdir(home):
        status, said = fission("train", "--model", "own", *TINY, *KINDS[request.param], "--output", "run")
        assert status == 0, said
    before = hashes(home)
    with chdir(away):
        status, said = fission("export", home / "run", "--output", "somewhere/model")
        assert status == 0, said
    return Left(request.param, home / "run", base, away / "somewhere" / "model", before)


def greedy(folder: Path) -> list[tuple[int, ...]]:
    loaded = load_policy_model(str(folder))
    policy = HFPolicy(loaded.model, eos_id=loaded.chat.eos_id, pad_id=loaded.chat.pad_id)
    prompts = [loaded.chat.prompt(task.messages, task.tools) for task in TASKS]
    said = policy.generate(prompts, sampling=Sampling(max_tokens=40, temperature=0.0), seed=0)
    return [prompt + one.ids for prompt, one in zip(prompts, said, strict=True)]


def test_it_is_the_policy_token_for_token_wherever_it_lies(left: Left, tmp_path: Path) -> None:
    """Prompts by its own template, alone in another place, with no base beside it."""
    moved = Path(shutil.copytree(left.folder, tmp_path / "moved"))
    with chdir(moved.parent):
        assert greedy(Path("moved")) == greedy(RunFolder(left.run).policy)
    assert greedy(moved) != greedy(left.base)  # training, or its template, has changed something
    assert not (moved / "adapter_config.json").exists()


def test_run_and_base_are_left_as_they_were(left: Left) -> None:
    assert hashes(left.run.parent) == left.before


def test_weights_are_those_that_were_trained(left: Left) -> None:
    exported, base = load_file(left.folder / "model.safetensors"), load_file(left.base / "model.safetensors")
    if left.kind == "full":
        assert file_hash(left.folder / "model.safetensors") == file_hash(left.run / "policy" / "model.safetensors")
    policy = load_policy_model(str(left.run / "policy")).model.state_dict()
    assert all(torch.equal(weight, policy[name]) for name, weight in exported.items())
    assert any(not torch.equal(weight, base[name]) for name, weight in exported.items())


def test_another_type_is_the_merged_weights_rounded_once(left: Left, tmp_path: Path) -> None:
    done = export_policy(left.run, output=tmp_path / "half", precision=Precision.BF16)
    exact, half = (load_file(place / "model.safetensors") for place in (left.folder, done.folder))
    assert {weight.dtype for weight in half.values()} == {torch.bfloat16}
    assert all(torch.equal(weight, exact[name].to(torch.bfloat16)) for name, weight in half.items())


def test_the_template_is_the_one_that_was_trained_with(left: Left) -> None:
    ours = {"full": "nano", "lora": "hermes"}[left.kind]
    assert load_chat(str(left.folder)).tokenizer.chat_template == chat_template(ours)
    status, said = fission("doctor", left.folder)
    assert status == 0, said
    assert "pass  call round trip" in said


def test_nothing_is_said_about_sampling_but_where_to_stop(left: Left) -> None:
    told = json.loads((left.folder / "generation_config.json").read_text())
    chat = load_chat(str(left.folder))
    assert told.pop("transformers_version")
    assert told == {"eos_token_id": chat.eos_id, "pad_token_id": chat.pad_id}


def test_an_evaluation_plays_it_as_it_plays_the_run(left: Left, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    status, said = fission("eval", "heldout", "--run", left.run, "--size", 3, "--output", one)
    assert status == 0, said
    typed = ("synthetic.apis=[TwitterAPI]", "synthetic.tools=[2, 3]", "rollouts.max_tokens=8", "rollouts.max_turns=2")
    status, said = fission("eval", "heldout", "--model", left.folder, "--size", 3, *typed, "--output", other)
    assert status == 0, said
    for part in ("episodes", "mixed", "precondition"):
        assert (one / f"{part}.jsonl").read_bytes() == (other / f"{part}.jsonl").read_bytes()


def test_the_card_tells_what_is_known_and_no_place_of_this_machine(left: Left) -> None:
    text = (left.folder / CARD_FILE).read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["license"] == "mit"
    assert "base_model" not in front  # `own` is on no hub
    assert "`own` after 2 steps" in text
    assert "--enable-auto-tool-choice --tool-call-parser hermes" in text
    assert f"model.safetensors {file_hash(left.base / 'model.safetensors')[:12]}" in text
    assert ("LoRA, merged in fp32" in text) == (left.kind == "lora")
    for path in left.folder.iterdir():
        assert str(left.run.parent).encode() not in path.read_bytes()


def test_the_card_has_the_table_of_every_evaluation_in_the_run(left: Left, tmp_path: Path) -> None:
    """Of four episodes three end right; two had an error, and one of these ends right."""
    run = Path(shutil.copytree(left.run, tmp_path / "run"))
    failed, right = message(0, CALL, ErrorClass.NOT_FOUND), message(0, OTHER)
    records = tuple(
        episode(*([failed] if erred else []), right, message(0), ok=ok, scenario=place, category="")
        for place, (erred, ok) in enumerate([(False, True), (False, True), (True, True), (True, False)])
    )
    save_parts(run / "evaluation", {"episodes": records})
    text = (export_policy(run).folder / CARD_FILE).read_text()
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ")[1] for line in text.splitlines() if " | " in line}
    assert rows["Final success ↑"].startswith("75.0 %")
    assert rows["Error recovery (ERR) ↑"].startswith("50.0 %")
    assert (tmp_path / "run-export").is_dir()  # beside it


def test_nothing_is_overwritten(left: Left) -> None:
    status, said = fission("export", left.run, "-o", left.folder)
    assert status == 2
    assert "holds something already, which would be lost; choose another --output" in said


def test_a_run_without_an_end_has_nothing_to_export(left: Left, tmp_path: Path) -> None:
    run = Path(shutil.copytree(left.run, tmp_path / "run", ignore=shutil.ignore_patterns("policy")))
    status, said = fission("export", run)
    assert status == 2
    assert "has no trained policy yet; finish it with: fission train --resume" in said
    status, said = fission("export", left.run, "--dtype", "int4")
    assert (status, said) == (2, "fission: unknown --dtype 'int4'; expected fp32, bf16\n")


@pytest.mark.parametrize("template", ["hermes", "nano"])
def test_servers_are_told_what_fits_the_template(template: str) -> None:
    told = serving_of(ChatFormat(byte_tokenizer(chat_template(template))), name="a model", window=512)
    assert told.vllm == "vllm serve 'a model' --enable-auto-tool-choice --tool-call-parser hermes"
    assert told.llama_cpp == "llama-server -m 'a model-Q8_0.gguf' --jinja --alias 'a model' --ctx-size 512"
    assert told.files[MODELFILE].startswith("FROM ./a model-Q8_0.gguf\nPARAMETER num_ctx 512\n")


def test_what_llama_cpp_cannot_have_is_said() -> None:
    told = serving_of(load_chat("nano"), name="nano", window=2048)
    assert (told.gguf, told.llama_cpp, dict(told.files)) == ((), "", {})
    assert "no rule for the way in which the tokenizer of nano cuts text" in told.no_gguf
