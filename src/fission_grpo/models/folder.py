"""Models as ordinary Hugging Face folders: in, and out again."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any

from peft import PeftModel
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerBase

from fission_grpo.files import unfinished_beside, write_text


def save_trained_weights(model: Any, folder: Path, *, is_main_process: bool = True) -> None:
    """Write what was trained: of a LoRA model the adapter alone, of any other model everything."""
    if isinstance(model, PeftModel):
        # Without this peft asks the hub whether the base's vocabulary has changed.
        model.save_pretrained(str(folder), is_main_process=is_main_process, save_embedding_layers=False)
    else:
        model.save_pretrained(folder, is_main_process=is_main_process)


def load_trained_weights(model: Any, folder: Path) -> None:
    """Put the weights that `save_trained_weights` wrote into a model of the same shape, exactly.

    For a LoRA model these are the adapter's alone; the base was never written.

    Raises:
        ValueError, RuntimeError: they are of another shape.
        OSError, SafetensorError: they are not there, or cut off.
    """
    if isinstance(model, PeftModel):
        model.load_adapter(str(folder), adapter_name=model.active_adapter, is_trainable=True)
        return
    missing, unexpected = model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    untied = [name for name in missing if name not in (model._tied_weights_keys or {})]
    if untied or unexpected:
        raise ValueError(f"{folder}: weights do not fit the model; missing {untied}, unexpected {unexpected}")


def save_model_folder(
    model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path, *, texts: Mapping[str, str] = MappingProxyType({})
) -> None:
    """What was trained, with tokenizer and chat template. Written aside, then renamed: a folder of this name is a
    whole one.

    Args:
        texts: more files: their names, and what they hold.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = unfinished_beside(folder)
    with ExitStack() as on_failure:
        on_failure.callback(shutil.rmtree, unfinished, ignore_errors=True)
        save_trained_weights(model, unfinished)
        tokenizer.save_pretrained(unfinished)
        for name, text in texts.items():
            write_text(unfinished / name, text)
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
        on_failure.pop_all()
