"""`nano`: a one-million-parameter policy that learns the whole method in minutes on two CPU cores.

An ordinary `LlamaForCausalLM` with a byte-level BPE of its own. Two things are not ordinary, because a model of this
size has no time to discover them: words are cut the same way wherever they stand, so that copying an argument is
copying tokens; and the initial weights already hold a rough induction circuit ("find what followed this token before"),
which a few steps on repeated random text sharpen (`training/copying.py`). Everything after that is a supervised warm
start on clean gold dialogues: it has never seen an error, so its errors and its helplessness after them are its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CONTROL = ("<|pad|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>")
VOCABULARY = 2048
WIDTH, LAYERS, HEADS, INNER = 128, 3, 4, 384
CONTEXT = 2048
ROPE_THETA = 1e5

CHUNKS = r'\d{1,2}|[A-Za-z_]+ ?|"(?=[\w#/])|"?[^A-Za-z_\d"]+|"'
"""Digits in pairs; words and identifiers with the space behind them; an opening quote by itself, so that a quoted
value has the same token before it in a request, in a result and in a call; punctuation with its spaces."""


def build_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Train the byte-level BPE on `texts`; the same texts give the same tokenizer, byte for byte."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CHUNKS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=list(CONTROL),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|im_end|>", clean_up_tokenization_spaces=False
    )
    fast.chat_template = files("fission_grpo.chat").joinpath("templates/nano.jinja").read_text(encoding="utf-8")
    return fast


def fresh_model(tokenizer: PreTrainedTokenizerFast, *, seed: int) -> LlamaForCausalLM:
    """Random weights with a copy circuit in them."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            intermediate_size=INNER,
            attention_bias=True,
            tie_word_embeddings=True,
            max_position_embeddings=CONTEXT,
            rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    with torch.no_grad():
        _plant_copying(model)
    return model


def _plant_copying(model: LlamaForCausalLM) -> None:
    """Layer 0 looks one (two heads), two and three tokens back; heads 0 and 1 of layer 1 find an earlier occurrence.

    Layer 0 writes "what the token before me was" beside every token. Layer 1 asks "where was I before?", that is, which
    place has me as its previous token, and its values carry that place's token straight to the output.
    """
    width = WIDTH // HEADS
    heads = range(2)
    basis = torch.linalg.qr(torch.randn(WIDTH, WIDTH))[0]
    previous, induction = model.model.layers[0].self_attn, model.model.layers[1].self_attn
    slow = _slow_dimensions(width)
    for head in heads:
        rows = slice(head * width, (head + 1) * width)
        read = basis[:, head * len(slow) : (head + 1) * len(slow)]  # what is copied of the previous token
        write = basis[:, WIDTH // 2 + head * len(slow) : WIDTH // 2 + (head + 1) * len(slow)]  # where it is put
        _attend_back(previous, rows, width, distance=1)
        previous.v_proj.weight[rows] = 0
        previous.v_proj.weight[rows][: len(slow)] = read.T
        previous.o_proj.weight[:, rows] = 0
        previous.o_proj.weight[:, rows][:, : len(slow)] = write * 1.5
        # RoPE turns fast dimensions away within a few tokens: match content in slow ones only.
        induction.q_proj.weight[rows] = 0
        induction.k_proj.weight[rows] = 0
        for place, dimension in enumerate(slow):
            induction.q_proj.weight[rows][dimension] = 1.5 * read[:, place]
            induction.k_proj.weight[rows][dimension] = 1.5 * write[:, place]
        carry = torch.linalg.qr(torch.randn(WIDTH, width))[0]
        induction.v_proj.weight[rows] = carry.T
        induction.o_proj.weight[:, rows] = carry
    for head, distance in ((2, 2), (3, 3)):
        rows = slice(head * width, (head + 1) * width)
        _attend_back(previous, rows, width, distance=distance)
        previous.v_proj.weight[rows] = torch.linalg.qr(torch.randn(WIDTH, width))[0].T
        previous.o_proj.weight[:, rows] = torch.linalg.qr(torch.randn(WIDTH, width))[0]


def _attend_back(attention: Any, rows: slice, width: int, *, distance: int) -> None:
    """Queries and keys without content: constant vectors whose RoPE phases agree `distance` tokens back."""
    half = width // 2
    frequencies = ROPE_THETA ** (-torch.arange(half) / half)
    strength = 3.0 * torch.ones(half)
    attention.q_proj.weight[rows] *= 0.1
    attention.k_proj.weight[rows] *= 0.1
    attention.q_proj.bias[rows] = torch.cat([strength, torch.zeros(half)])
    # RoPE rotates (x_i, x_{i + half}) by position * frequency: a key turned d steps ahead meets a query d later.
    phase = distance * frequencies
    attention.k_proj.bias[rows] = torch.cat([strength * torch.cos(phase), strength * torch.sin(phase)])


def _slow_dimensions(width: int, reach: int = 200) -> list[int]:
    """Dimensions that RoPE turns by less than about half a radian over `reach` tokens."""
    half = width // 2
    slow = [i for i in range(half) if reach * ROPE_THETA ** (-i / half) < 0.6]
    return slow + [i + half for i in slow]


def parameter_count(model: LlamaForCausalLM) -> int:
    """Trainable numbers; tied embeddings count once."""
    return sum(parameter.numel() for parameter in model.parameters())
