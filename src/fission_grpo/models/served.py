"""A model of this machine behind a vLLM server: its tokenizer and chat template here, its weights there."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from fission_grpo.chat.format import ChatFormat
from fission_grpo.client.endpoint import EndpointSettings
from fission_grpo.models.catalog import load_chat, load_context_window
from fission_grpo.policy.vllm import VLLMPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """Who samples, and what writes its contexts."""

    policy: VLLMPolicy
    chat: ChatFormat


def open_served_model(
    name_or_path: str,
    server: str,
    *,
    chat_template: str | None = None,
    chat_template_kwargs: Mapping[str, Any] = MappingProxyType({}),
    concurrency: int = 64,
) -> ServedModel:
    """Check the server; no weights are read here.

    A server that was started with a smaller window than the model's is taken, with a warning.

    Args:
        name_or_path: as for `load_policy_model`, and what the server calls the model.
        server: its URL.
        chat_template: a template of ours or a Jinja file, in place of the model's own.
        chat_template_kwargs: what the template is told.
        concurrency: most dialogues under way at a time.

    Raises:
        ConfigError: no such model here, or no such server: see `VLLMPolicy`.
    """
    chat = load_chat(name_or_path, chat_template=chat_template, chat_template_kwargs=chat_template_kwargs)
    window = load_context_window(name_or_path)
    policy = VLLMPolicy(EndpointSettings(url=server, model=name_or_path, concurrency=concurrency), chat=chat)
    if policy.context_window < window:
        warnings.warn(
            f"{server} holds {policy.context_window} tokens of a dialogue, the model itself {window}; "
            f"start the server with --max-model-len {window} if longer ones matter",
            stacklevel=2,
        )
    return ServedModel(policy=policy, chat=chat)
