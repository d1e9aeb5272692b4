"""Small byte-level tokenizers and templates, good and bad, for the tests of `chat`."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from fission_grpo.chat.templates import chat_template

LINES = [
    "the tool says hello to the world, and the world answers",
    '{"name": "move_file", "arguments": {"source": "a"}}',
]
TAGS = ["<think>", "</think>", "<tool_call>", "</tool_call>"]

NANO = chat_template("nano")
_CONTENT = "(message.content or '')"
_LOOP = "(messages[1:] if messages[0].role == 'system' else messages)"
_HEAD = "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"

NO_TOOLS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}" + _HEAD
)
FORGETS_THINKING = NANO.replace(
    _CONTENT, f"({_CONTENT} if loop.last or message.role != 'assistant' else {_CONTENT}.split('</think>')[-1].lstrip())"
)
SWALLOWS_RESULTS = NANO.replace(_LOOP, f"{_LOOP} | rejectattr('role', 'equalto', 'tool')")
EMPTY_THINKING = NANO.replace(_HEAD, _HEAD.replace("assistant\\n", "assistant\\n<think>\\n\\n</think>\\n\\n"))
NO_HEAD = NANO.replace(_HEAD, "")
OTHER_CALLS = NANO.replace("<tool_call>", "<|python|>")
NO_END = NANO.replace("{{- '<|im_end|>\\n' }}\n{%- endfor %}", "{{- '\\n' }}\n{%- endfor %}").replace(
    "<|im_start|>", "# "
)
WRAPPED_RESULTS = NANO.replace(
    "'<|im_start|>' ~ message.role ~ '\\n' ~ (message.content or '')",
    "('<|im_start|>user' if message.role == 'tool' and loop.previtem.role != 'tool' else '') ~ ("
    "'\\n<tool_response>\\n' ~ message.content ~ '\\n</tool_response>' if message.role == 'tool'"
    " else '<|im_start|>' ~ message.role ~ '\\n' ~ (message.content or ''))",
).replace(
    "{{- '<|im_end|>\\n' }}\n{%- endfor %}",
    "{{- '' if message.role == 'tool' and loop.nextitem is defined and loop.nextitem.role == 'tool'"
    " else '<|im_end|>\\n' }}\n{%- endfor %}",
)
"""As Qwen does: all results of a turn in one user turn."""


def byte_tokenizer(template: str | None, *, tags: bool = True, eos: str = "<|im_end|>") -> PreTrainedTokenizerFast:
    """Byte-level BPE with ChatML's tokens; `tags`: with `<tool_call>` and `<think>` as tokens too, as Qwen3 has."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(LINES, trainer)
    backend.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS if tags])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=eos)
    tokenizer.chat_template = template
    return tokenizer
