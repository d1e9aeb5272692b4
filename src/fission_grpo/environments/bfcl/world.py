"""A live set of official BFCL instances: calls in, official text out, state frozen and hashed.

What the official executor leaves open to a policy in training is closed here: nothing is evaluated, instances live in
this object and not in globals, every world starts from its own copy, mutable default arguments belong to the world,
and what the classes keep in module globals is used by one call at a time and put back. Where the official checker lets
policy and gold share such things, `BfclWorld.pair` does too.
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
import re
import struct
import threading
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from types import MappingProxyType
from typing import Any

from fission_grpo.environments.bfcl.official import added_cards, methods_of, official_class, official_text
from fission_grpo.environments.limits import GUARDS, CallLimits, CallTimeout, NestingError, bounded_copy, time_limit
from fission_grpo.errors import ConfigError
from fission_grpo.types import ToolCall

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
    def pair(cls, config: bytes) -> tuple[BfclWorld, BfclWorld]:
        """Two fresh worlds of a config that hold in common what two sets of instances in one process do.

        Two things of it are seen to change: the lists that `TwitterAPI.post_tweet` defaults to, and in long context the
        credit cards that `TravelAPI` adds. The bookings that it adds are shared and never change in place.

        Raises:
            ConfigError: as in `initial`.
        """
        first, second, defaults = pickle.loads(_initial_pair(config))  # our own bytes, never a file
        return cls(first, defaults), cls(second, defaults)

    @classmethod
    def thaw(cls, frozen: bytes) -> BfclWorld:
        """The world that `freeze` froze."""
        instances, defaults = pickle.loads(frozen)  # our own bytes, never a file
        return cls(instances, defaults)

    def freeze(self) -> bytes:
        """Everything, private state and the positions of random generators included."""
        return _pickled((self.instances, self.defaults))

    def __reduce__(self) -> tuple[Callable[[bytes], BfclWorld], tuple[bytes]]:
        """Pickled as what `freeze` keeps."""
        return BfclWorld.thaw, (self.freeze(),)

    def digest(self) -> str:
        """Hex digest of what `freeze` keeps, equal for equal worlds however they came about."""
        words: list[str] = []
        _spell((self.instances, self.defaults), {}, words)
        return hashlib.blake2b("\x1f".join(words).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()

    def disturbed(self) -> bool:
        """Whether anything has changed that `pair` would share: until then two such worlds are as good as apart."""
        if any(value for parameters in self.defaults.values() for value in parameters.values()):
            return True
        travel = self.instances.get("TravelAPI")
        if travel is None or not travel.long_context:
            return False
        return any(travel.credit_card_list[number] != card for number, card in added_cards().items())

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


_SPACED_NAME = re.compile(r"[ \t]*+(?:[ \t\f]*+[\r\n])*+(?:[ \t\f]*\f)?([a-zA-Z_]\w*+)\s*+")
"""Blank lines and no indentation may stand in front, which a form feed takes back; possessive, so that it is linear."""
_SPACE = " \t\f\r\n"
"""What Python's grammar skips within parentheses."""


def spelled(call: ToolCall) -> ToolCall:
    """A call as the official executor reads it, which pastes name and keys into source text.

    To Python's grammar white space around them is nothing, and a key means its NFKC form; names are looked for before
    Python reads them, and have to be spelled out. Keys that come to the same are left alone: the official executor
    refuses them as repeated, and here one of them is unknown.
    """
    if call.name.isidentifier() and all(key.isascii() and key.isidentifier() for key in call.arguments):
        return call
    name = _SPACED_NAME.fullmatch(call.name)
    arguments = {_read_key(key): value for key, value in call.arguments.items()}
    repeated = len(arguments) < len(call.arguments)
    return ToolCall(name=name[1] if name else call.name, arguments=call.arguments if repeated else arguments)


def _read_key(key: str) -> str:
    bare = key.strip(_SPACE)
    return unicodedata.normalize("NFKC", bare) if bare.isidentifier() else key


def unknown_name(name: str) -> str:
    """The official answer to a call of a name that is not on offer."""
    head, _, rest = name.partition(".")
    leaf = rest.partition(".")[0] or head
    if leaf in _FORBIDDEN:
        return f"{EXECUTION_ERROR}Function call {leaf} is not allowed."
    return f"{EXECUTION_ERROR}name '{head}' is not defined"


@lru_cache(maxsize=4096)
def _initial(config: bytes) -> bytes:
    instances = _instances(config)
    return BfclWorld(instances, _all_mutable_defaults(instances)).freeze()


@lru_cache(maxsize=4096)
def _initial_pair(config: bytes) -> bytes:
    first, second = _instances(config), _instances(config)
    return _pickled((first, second, _all_mutable_defaults(first)))


def _pickled(value: Any) -> bytes:
    """The value with everything that is one object in it still one."""
    pickled = io.BytesIO()
    pickler = pickle.Pickler(pickled, protocol=pickle.HIGHEST_PROTOCOL)
    pickler.dispatch_table = _REDUCERS
    pickler.dump(value)
    return pickled.getvalue()


def _instances(config: bytes) -> dict[str, Any]:
    """Loaded as the classes load them: to be copied before any call, since they hold what belongs to the package."""
    try:
        parsed = json.loads(json.dumps(marshal.loads(config)))  # what a file cannot hold, a world cannot
        initial, long_context = parsed.get("initial", {}), bool(parsed.get("long_context", False))
        return {name: _instance(name, initial.get(name, {}), long_context) for name in parsed["classes"]}
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f'a BFCL world cannot be built: {type(error).__name__}: {error}; expected {{"classes": [...], '
            f'"initial": {{class: state}}}} with states as in the official initial_config'
        ) from error


def _instance(name: str, state: Mapping[str, Any], long_context: bool) -> Any:
    instance = official_class(name)()
    if hasattr(instance, "_load_scenario"):  # MathAPI has no state
        instance._load_scenario(state, long_context=long_context)
    return instance


def _all_mutable_defaults(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    return {function: found for name in names for function, found in _mutable_defaults(name).items()}


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
