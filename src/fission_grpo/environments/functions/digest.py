"""One hex digest for any Python object, equal for equal states however they came about."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Mapping
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, TypeAlias

_Open: TypeAlias = tuple[int, ...]
"""Identities of the objects that are being spelled, outermost first."""
_ATOMS = (type(None), bool, int, float, complex, str, bytes)
_NAMED = (type, FunctionType, BuiltinFunctionType, MethodType, ModuleType)


def digest(value: Any) -> str:
    """Structural hash: types, values, order of lists and keys; not identity, not the order of sets.

    Objects are taken apart as `copy` would do it. What cannot be taken apart (locks, files, connections) counts by its
    type alone, so a state that hides there must be found out by the answers of the tools.
    """
    words: list[str] = []
    _spell(value, (), words)
    return hashlib.blake2b("\x1f".join(words).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def attribute_digests(value: object) -> Mapping[str, str]:
    """Digest of each attribute, so that a difference has a name; of the whole object where it has no `__dict__`."""
    attributes = getattr(value, "__dict__", {"": value})
    return {name: digest(attribute) for name, attribute in sorted(attributes.items())}


def _spell(value: Any, open_: _Open, words: list[str]) -> None:
    if type(value) in _ATOMS:
        words.append(f"{type(value).__name__} {value!r}")
    elif isinstance(value, _NAMED):
        words.append(_name(value))
    elif id(value) in open_:
        words.append(f"cycle {open_.index(id(value))}")
    else:
        words.append(_name(type(value)))
        _SPELLINGS.get(type(value), _spell_parts)(value, (*open_, id(value)), words)


def _spell_sequence(value: Any, open_: _Open, words: list[str]) -> None:
    words.append(f"of {len(value)}")
    for item in value:
        _spell(item, open_, words)


def _spell_mapping(value: Any, open_: _Open, words: list[str]) -> None:
    _spell_sequence([part for item in value.items() for part in item], open_, words)


def _spell_set(value: Any, open_: _Open, words: list[str]) -> None:
    words.extend(sorted(map(digest, value)))


def _spell_parts(value: Any, open_: _Open, words: list[str]) -> None:
    """An object by what `pickle` would need to rebuild it: constructor, arguments, state, items."""
    try:
        parts = value.__reduce_ex__(4)
    except (TypeError, AttributeError, NotImplementedError, pickle.PickleError):
        return
    if isinstance(parts, str):
        words.append(parts)
        return
    constructor, arguments, state, items, pairs = (*parts, None, None, None)[:5]
    held = [constructor, arguments, state, list(items or ()), list(pairs or ())]
    _spell_sequence(held, open_, words)


def _name(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', getattr(value, '__name__', ''))}"


_SPELLINGS: Mapping[type, Callable[[Any, _Open, list[str]], None]] = {
    list: _spell_sequence,
    tuple: _spell_sequence,
    dict: _spell_mapping,
    set: _spell_set,
    frozenset: _spell_set,
}
