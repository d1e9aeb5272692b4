"""The one place that makes validators of JSON Schemas, which may come from anybody.

A validator fetches nothing: a reference goes to a place in the same schema, or the schema is refused. Its patterns are
matched in linear time by RE2, which has no look-around and no back-references: a schema that asks for them is refused,
too. A schema that goes round in a circle without looking at anything deeper is refused, and whatever still cannot be
checked (a recursion without end, a number that overflows) is a breach like any other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, TypeAlias

import re2
from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import extend
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from fission_grpo.errors import ConfigError

MOST_PATTERN = 1000
"""Characters of a pattern; ours: no argument of a tool needs more, and it bounds the memory of its automaton."""
_NO_FORMATS = FormatChecker(formats=())
_NOTHING_ELSE: Registry[Any] = Registry()
"""Knows the schema at hand alone, and retrieves nothing."""
MOST_REFERENCES = 10_000
"""That are followed for one value; ours."""
_left: ContextVar[list[int]] = ContextVar("references left")
_SAME_VALUE = frozenset({"allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas"})
"""Keywords whose schemas look at the value that the schema itself looks at."""
_ONE = frozenset(
    {
        *("not", "if", "then", "else", "items", "contains", "additionalProperties", "propertyNames"),
        *("unevaluatedItems", "unevaluatedProperties", "contentSchema"),
    }
)
_LISTED = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_NAMED = frozenset({"properties", "patternProperties", "dependentSchemas", "$defs", "definitions"})
"""Keywords that hold schemas: one, a list, or by name. The metaschema has checked all of them."""
_SHOWN = 60

_Location: TypeAlias = tuple[str, Any]
"""Dotted place in a schema, and what stands there."""


def validator_of(schema: Mapping[str, Any]) -> Validator:
    """A validator of a schema; equal schemas share one.

    Raises:
        ConfigError: the schema cannot be used: see `schema_problems`.
    """
    try:
        text = json.dumps(schema, default=dict)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"a schema that is no JSON: {error}") from error
    return _checked(text)


@lru_cache(maxsize=4096)
def _checked(text: str) -> Validator:
    schema = json.loads(text)
    if problems := schema_problems(schema):
        raise ConfigError(f"a schema that cannot be used: {'; '.join(problems)}")
    validator: Validator = _BoundedValidator(schema, registry=_NOTHING_ELSE)
    return validator


def breaches(validator: Validator, value: Any) -> list[ValidationError]:
    """Where a value breaks a schema.

    Raises:
        UncheckableError: that cannot be found out within reason.
    """
    _left.set([MOST_REFERENCES])
    try:
        return list(validator.iter_errors(value))
    except (RecursionError, OverflowError) as error:
        raise UncheckableError(f"{type(error).__name__}: {error}") from error


class UncheckableError(ValueError):
    """A value on which a schema would take for ever, recurse without end, or overflow."""


def schema_problems(schema: Any) -> list[str]:
    """Everything that keeps a schema from being used; empty for a sound one.

    Args:
        schema: any JSON value that is nested no deeper than `files.MAX_DEPTH`.
    """
    if not isinstance(schema, dict):
        return [f"expected an object, got {_short(schema)}"]
    try:
        # Formats are not asked for: theirs of a pattern is Python's own engine.
        Draft202012Validator.check_schema(schema, format_checker=_NO_FORMATS)
        return [*_reference_problems(schema), *_pattern_problems(schema)]
    except SchemaError as error:
        place = ".".join(map(str, error.absolute_path))
        return [f"{place}: {_cut(error.message)}" if place else _cut(error.message)]
    except RecursionError:
        return ["it is nested too deeply"]


def _reference_problems(schema: dict[str, Any]) -> Iterator[str]:
    resolver = _NOTHING_ELSE.resolver_with_root(DRAFT202012.create_resource(schema))
    nodes = list(_nodes(schema))
    checked = {id(node) for _, node in nodes}
    targets: dict[str, Any] = {}
    for place, node in nodes:
        for keyword, target in _references(node):
            try:
                found = resolver.lookup(target).contents if target.startswith("#") else None
            except Unresolvable:
                found = None
            if id(found) not in checked and not isinstance(found, bool):
                yield (
                    f"{place}{keyword}: {_short(target)} is no schema in this one, and nothing is fetched; put it into "
                    "`$defs`, and refer to it as `#/$defs/NAME`"
                )
                return
            targets[target] = found
    done: set[int] = set()
    for place, node in nodes:
        if _is_circular(node, targets, (), done):
            yield f"{place}$ref: refers to itself without end; let it go through `properties` or `items`"
            return


def _references(node: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(keyword, node[keyword]) for keyword in ("$ref", "$dynamicRef") if keyword in node]


def _is_circular(node: Any, targets: Mapping[str, Any], above: tuple[int, ...], done: set[int]) -> bool:
    """Whether the keywords that look at the same value lead back to where they began.

    Args:
        above: identities of the schemas on the way here.
        done: those from which no way leads back; more are added.
    """
    if not isinstance(node, dict) or id(node) in done:
        return False
    if id(node) in above:
        return True
    within = [targets[target] for _, target in _references(node)]
    within += [inner for place, inner in _parts(node) if place.partition(".")[0] in _SAME_VALUE]
    if any(_is_circular(one, targets, (*above, id(node)), done) for one in within):
        return True
    done.add(id(node))
    return False


def _pattern_problems(schema: dict[str, Any]) -> Iterator[str]:
    for place, node in _nodes(schema):
        own, by_name = [node["pattern"]] if "pattern" in node else [], node.get("patternProperties", {})
        for pattern in (*own, *by_name):
            if len(pattern) > MOST_PATTERN:
                yield f"{place}pattern: has {len(pattern)} characters, expected at most {MOST_PATTERN}"
            elif why := _refusal(pattern):
                yield (
                    f"{place}pattern: {_short(pattern)} is none that RE2 can match ({why}); correct it, or write it "
                    "without look-around and back-references"
                )
        if by_name and "unevaluatedProperties" in node:
            yield f"{place}unevaluatedProperties: cannot stand beside patternProperties; use additionalProperties"


def _nodes(schema: dict[str, Any], place: str = "") -> Iterator[_Location]:
    """Every object that is a schema, the whole first; what is a default or an example is none."""
    yield place, schema
    for name, inner in _parts(schema):
        if isinstance(inner, dict):
            yield from _nodes(inner, f"{place}{name}.")


def _parts(node: Mapping[str, Any]) -> Iterator[_Location]:
    """The schemas right within one."""
    for keyword in _ONE & node.keys():
        yield keyword, node[keyword]
    for keyword in _LISTED & node.keys():
        yield from ((f"{keyword}.{index}", inner) for index, inner in enumerate(node[keyword]))
    for keyword in _NAMED & node.keys():
        yield from ((f"{keyword}.{name}", inner) for name, inner in node[keyword].items())


def _options() -> Any:
    options = re2.Options()
    options.log_errors = False
    return options


_OPTIONS = _options()


def _refusal(pattern: str) -> str:
    try:
        re2.compile(_bytes(pattern), options=_OPTIONS)
    except re2.error as error:
        return " ".join(error.args[0].decode(errors="replace").split()) if error.args else "it is refused"
    return ""


def _matches(pattern: str, text: str) -> bool:
    return re2.search(_bytes(pattern), _bytes(text), options=_OPTIONS) is not None


def _bytes(text: str) -> bytes:
    """Half a surrogate pair becomes `?`: UTF-8 has no other place for it."""
    return text.encode(errors="replace")


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if validator.is_type(instance, "string") and not _matches(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _ref(validator: Any, target: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    """References make a small schema endless: two in each of thirty are a thousand million."""
    left = _left.get()
    left[0] -= 1
    if left[0] < 0:
        raise UncheckableError(f"more than {MOST_REFERENCES} references to follow")
    yield from Draft202012Validator.VALIDATORS["$ref"](validator, target, instance, schema)


def _pattern_properties(validator: Any, patterns: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if validator.is_type(instance, "object"):
        for pattern, inner in patterns.items():
            for name in filter(lambda name: _matches(pattern, name), instance):
                yield from validator.descend(instance[name], inner, path=name, schema_path=pattern)


def _additional_properties(validator: Any, others: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    by_name = schema.get("patternProperties", {})
    if by_name and validator.is_type(instance, "object"):
        instance = {name: value for name, value in instance.items() if not _matches_any(by_name, name)}
        schema = {keyword: value for keyword, value in schema.items() if keyword != "patternProperties"}
    yield from Draft202012Validator.VALIDATORS["additionalProperties"](validator, others, instance, schema)


def _matches_any(patterns: Sequence[str], text: str) -> bool:
    return any(_matches(pattern, text) for pattern in patterns)


def _short(value: Any) -> str:
    return _cut(json.dumps(value, ensure_ascii=False, default=str))


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


_BoundedValidator = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    {
        "$ref": _ref,
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
    },
)
