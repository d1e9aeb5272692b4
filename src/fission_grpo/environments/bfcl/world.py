"""A live set of official BFCL instances: calls in, official text out, state frozen and hashed.

What the official executor leaves open to a policy in training is closed here: nothing is evaluated, instances live in
this object and not in globals, every world starts from its own copy, mutable default arguments belong to the world,
and what the classes keep in module globals is used by one call at a time and put back.
"""

from __future__ import annotations

import copyreg
import decimal
import hashlib
import io
import json
import marshal
import os
import pickle
import random
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from types import MappingProxyType
from typing import Any

from fission_grpo.environments.bfcl.official import methods_of, official_class, official_text
from fission_grpo.environments.limits import GUARDS, CallLimits, CallTimeout, NestingError, bounded_copy, time_limit
from fission_grpo.errors import ConfigError

EXECUTION_ERROR = "Error during execution: "
"""How the official executor begins the text of every exception; so do our refusals."""
BFCL_LIMIT_ERROR = EXECUTION_ERROR + "call refused: "
"""How a call that hit one of our caps is answered (class E8)."""

_FORBIDDEN = frozenset({"kill", "exit", "quit", "remove", "unlink", "popen", "Popen", "run"})
_WALL_CLOCK = "_last_modified"
"""Attribute of an official file that holds the time of day; no call shows it and no check reads it."""

_one_at_a_time = threading.Lock()
"""The classes share module globals (precision of mpmath, one weather report): calls never overlap."""


def _new_lock() -> None:
    global _one_at_a_time  # a forked child may inherit it held by a thread that it has not
    _one_at_a_time = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)


@cache
def owners(classes: tuple[str, ...]) -> Mapping[str, str]:
    """Public function -> the class among `classes` that has it; the last one wins, as in the official executor."""
    return MappingProxyType({function: name for name in classes for function in methods_of(name)})


@dataclass(slots=True)
class BfclWorld:
    """One life of a few official instances."""

    instances: dict[str, Any]
    """Class name -> instance, in the order of the config."""
    defaults: dict[str, dict[str, Any]]
    """Function -> parameter -> the very list it defaults to in this world.

    `TwitterAPI.post_tweet` defaults to lists that tweets then share and `mention` extends. Within one world that is
    official behaviour; across worlds it would be a leak.
    """
    owner_of: Mapping[str, str] = field(init=False)
    """Function -> class name."""

    def __post_init__(self) -> None:
        self.owner_of = owners(tuple(self.instances))

    @classmethod
    def initial(cls, config: bytes) -> BfclWorld:
        """A fresh world of a config given as marshalled bytes; about as cheap as unpickling it.

        Raises:
            ConfigError: the config names unknown classes or states that the official classes cannot load.
        """
        return cls.thaw(_initial(config))

    @classmethod
    def thaw(cls, frozen: bytes) -> BfclWorld:
        """The world that `freeze` froze."""
        instances, defaults = pickle.loads(frozen)  # our own bytes, never a file
        return cls(instances, defaults)

    def freeze(self) -> bytes:
        """Everything, private state and the positions of random generators included."""
        frozen = io.BytesIO()
        pickler = pickle.Pickler(frozen, protocol=pickle.HIGHEST_PROTOCOL)
        pickler.dispatch_table = _REDUCERS
        pickler.dump((self.instances, self.defaults))
        return frozen.getvalue()

    def __reduce__(self) -> tuple[Callable[[bytes], BfclWorld], tuple[bytes]]:
        """Pickled as what `freeze` keeps."""
        return BfclWorld.thaw, (self.freeze(),)

    def digest(self) -> str:
        """Hex digest of what `freeze` keeps, equal for equal worlds however they came about."""
        words: list[str] = []
        _spell((self.instances, self.defaults), {}, words)
        return hashlib.blake2b("\x1f".join(words).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()

    def call(self, name: str, arguments: Mapping[str, Any], limits: CallLimits) -> str:
        """The official text of one call; an unknown name, a wrong argument and a refusal are texts too."""
        try:
            return self.call_in_time(name, arguments, limits)
        except CallTimeout:
            return f"{BFCL_LIMIT_ERROR}it took longer than {limits.seconds:g} s"

    def call_in_time(self, name: str, arguments: Mapping[str, Any], limits: CallLimits) -> str:
        """As `call`, for calls whose texts must not depend on how busy the machine is.

        Raises:
            CallTimeout: it overran the wall clock.
        """
        owner = self.owner_of.get(name)
        if owner is None:
            return unknown_name(name)
        instance = self.instances[owner]
        try:
            given = {key: bounded_copy(value, limits.depth) for key, value in arguments.items()}
            if (guard := GUARDS.get(name)) and (refusal := guard(given, instance)):
                return f"{BFCL_LIMIT_ERROR}{refusal}"
            answer = _ANSWERS.get(owner, _answer)
            with _one_at_a_time, time_limit(limits.seconds):
                text = answer(getattr(instance, name), {**self.defaults.get(name, {}), **given})
        except NestingError:
            return f"{BFCL_LIMIT_ERROR}arguments are nested deeper than {limits.depth} levels"
        if len(text) > limits.characters:
            return f"{BFCL_LIMIT_ERROR}the answer has more than {limits.characters} characters"
        return text


def _answer(method: Callable[..., Any], given: Mapping[str, Any]) -> str:
    try:
        return official_text(method(**given))
    except Exception as error:  # noqa: BLE001 (the official contract: what a tool raises is its answer to the model)
        return f"{EXECUTION_ERROR}{error}"


def _math_answer(method: Callable[..., Any], given: Mapping[str, Any]) -> str:
    """MathAPI sets the precision of `decimal` and `mpmath` for the whole process: both are put back."""
    import mpmath  # installed, since the class was imported

    with decimal.localcontext(), mpmath.workdps(mpmath.mp.dps):
        return _answer(method, given)


_ANSWERS: Mapping[str, Callable[[Callable[..., Any], Mapping[str, Any]], str]] = MappingProxyType(
    {"MathAPI": _math_answer}
)
"""Class -> how its functions are run, where it is not `_answer`."""


def unknown_name(name: str) -> str:
    """The official answer to a call of a name that is not on offer."""
    head, _, rest = name.partition(".")
    leaf = rest.partition(".")[0] or head
    if leaf in _FORBIDDEN:
        return f"{EXECUTION_ERROR}Function call {leaf} is not allowed."
    return f"{EXECUTION_ERROR}name '{head}' is not defined"


@lru_cache(maxsize=4096)
def _initial(config: bytes) -> bytes:
    try:
        parsed = json.loads(json.dumps(marshal.loads(config)))  # what a file cannot hold, a world cannot
        initial, long_context = parsed.get("initial", {}), bool(parsed.get("long_context", False))
        instances = {name: _instance(name, initial.get(name, {}), long_context) for name in parsed["classes"]}
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f'a BFCL world cannot be built: {type(error).__name__}: {error}; expected {{"classes": [...], '
            f'"initial": {{class: state}}}} with states as in the official initial_config'
        ) from error
    defaults = {function: found for name in instances for function, found in _mutable_defaults(name).items()}
    return BfclWorld(instances, defaults).freeze()


def _instance(name: str, state: Mapping[str, Any], long_context: bool) -> Any:
    instance = official_class(name)()
    if hasattr(instance, "_load_scenario"):  # MathAPI has no state
        instance._load_scenario(state, long_context=long_context)
    return instance


def _mutable_defaults(name: str) -> dict[str, dict[str, Any]]:
    found = {
        function: {p.name: type(p.default)() for p in signature.parameters.values() if type(p.default) in (list, dict)}
        for function, signature in methods_of(name).items()
    }
    return {function: parameters for function, parameters in found.items() if parameters}


def _revive(state: Any) -> random.Random:
    generator = random.Random(0)  # a seed from the system would cost more than the rest of the state
    generator.setstate(state)
    return generator


def _reduce(generator: random.Random) -> tuple[Any, ...]:
    return _revive, (generator.getstate(),)


_REDUCERS = {**copyreg.dispatch_table, random.Random: _reduce}


def _spell(node: Any, seen: dict[int, int], words: list[str]) -> None:
    """Append a canonical spelling of an object graph: order, types and sharing count, identity does not."""
    kind = type(node)
    if node is None or kind in (str, int, float, bool):
        words.append(repr(node))
        return
    if id(node) in seen:
        words.append(f"@{seen[id(node)]}")
        return
    seen[id(node)] = len(seen)
    if kind is dict:
        _spell_items(node.items(), seen, words)
    elif kind in (list, tuple):
        words.append(f"{kind.__name__} {len(node)}")
        for item in node:
            _spell(item, seen, words)
    elif kind in (set, frozenset):
        words.extend((f"set {len(node)}", *sorted(map(repr, node))))
    elif kind is random.Random:
        version, position, gauss = node.getstate()
        words.append(f"random {version} {struct.pack(f'{len(position)}I', *position).hex()} {gauss}")
    else:
        words.append(kind.__name__)
        _spell_items([(key, value) for key, value in vars(node).items() if key != _WALL_CLOCK], seen, words)


def _spell_items(items: Any, seen: dict[int, int], words: list[str]) -> None:
    words.append(f"items {len(items)}")
    for key, value in items:
        _spell(key, seen, words)
        _spell(value, seen, words)
