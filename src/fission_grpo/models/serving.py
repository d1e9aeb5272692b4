"""How a server of others is told to serve a model of ours: vLLM, llama.cpp, Ollama."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import MappingProxyType

from fission_grpo.chat.format import ChatFormat
from fission_grpo.chat.templates import chat_template
from fission_grpo.models.nano import CHUNKS

VLLM_TOOL_PARSER = "hermes"
"""Of vLLM, for the only calls that `ChatFormat` takes: JSON between `<tool_call>` tags. Our templates show their tools
in different ways, and write their calls in this one."""
MODELFILE = "Modelfile"
_OLLAMA = {"hermes": "hermes.modelfile", "nano": "nano.modelfile"}
"""Our templates once more, in the language of Ollama."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """Commands and files for one exported model."""

    name: str
    """What servers call it."""
    vllm: str
    """A command line."""
    gguf: tuple[str, ...]
    """Command lines that convert and quantise; empty where llama.cpp cannot have the model."""
    llama_cpp: str
    """A command line; empty in the same case."""
    no_gguf: str
    """Why, in one sentence; empty where it can."""
    modelfile: str
    """For Ollama; empty where there is none."""
    no_modelfile: str
    """Why, in one sentence; empty where there is one."""

    @property
    def files(self) -> Mapping[str, str]:
        """Beside the weights: their names, and what they hold."""
        return MappingProxyType({MODELFILE: self.modelfile} if self.modelfile else {})


def serving_of(chat: ChatFormat, *, name: str, window: int) -> Serving:
    """What serves a folder that lies in the working directory under `name`.

    Args:
        chat: tokenizer and template of the model.
        name: without slashes.
        window: most tokens that it holds.
    """
    quoted = shlex.quote(name)
    vllm = f"vllm serve {quoted} --enable-auto-tool-choice --tool-call-parser {VLLM_TOOL_PARSER}"
    no_gguf = _unknown_to_llama_cpp(chat)
    template = template_name(chat)
    modelfile = "" if no_gguf or template is None else _modelfile(template, name=name, window=window)
    why = no_gguf or (
        "" if modelfile else "Ollama writes prompts by templates of its own, and none here says what this model's does."
    )
    exact, small = shlex.quote(f"{name}.gguf"), shlex.quote(f"{name}-Q8_0.gguf")
    convert = (
        f"python llama.cpp/convert_hf_to_gguf.py {quoted} --outfile {exact} --outtype auto",
        f"llama-quantize {exact} {small} Q8_0",
    )
    serve = f"llama-server -m {small} --jinja --alias {quoted} --ctx-size {window}"
    return Serving(
        name=name,
        vllm=vllm,
        gguf=() if no_gguf else convert,
        llama_cpp="" if no_gguf else serve,
        no_gguf=no_gguf,
        modelfile=modelfile,
        no_modelfile=why,
    )


def template_name(chat: ChatFormat) -> str | None:
    """Which of our templates the tokenizer carries; None of another one."""
    source = chat.tokenizer.chat_template
    return next((name for name in sorted(_OLLAMA) if chat_template(name) == source), None)


def _unknown_to_llama_cpp(chat: ChatFormat) -> str:
    """llama.cpp cuts text into words by rules that it has built in, and knows a tokenizer by a hash."""
    tokenizer = chat.tokenizer
    rules = json.loads(tokenizer.backend_tokenizer.to_str())["pre_tokenizer"] if tokenizer.is_fast else None
    if repr(CHUNKS) not in repr(rules):
        return ""
    return "llama.cpp, and so Ollama, has no rule for the way in which the tokenizer of nano cuts text."


def _modelfile(template: str, *, name: str, window: int) -> str:
    text = (resources.files("fission_grpo.chat.templates") / _OLLAMA[template]).read_text(encoding="utf-8")
    head = f"FROM ./{Path(name).name}-Q8_0.gguf\nPARAMETER num_ctx {window}\nPARAMETER stop <|im_end|>\n"
    return f'{head}TEMPLATE """{text}"""\n'
