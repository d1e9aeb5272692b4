"""Models as ordinary Hugging Face folders: in, and out again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors.torch import load_file


def load_trained_weights(model: Any, folder: Path) -> None:
    """Put the weights that `save_pretrained` wrote into a model of the same shape, exactly.

    For a LoRA model these are the adapter's alone; the base was never written.
    """
    if isinstance(model, PeftModel):
        model.load_adapter(str(folder), adapter_name=model.active_adapter, is_trainable=True)
        return
    missing, unexpected = model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    untied = [name for name in missing if name not in (model._tied_weights_keys or {})]
    if untied or unexpected:
        raise ValueError(f"{folder}: weights do not fit the model; missing {untied}, unexpected {unexpected}")
