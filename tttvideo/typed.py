"""Dataclasses from values that a file holds: each field is compared with its type.

A file may come from anywhere, and JSON and checkpoints hold values of any type.
"""

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, cast


T = TypeVar("T")
MOST = 1 << 63
WORDS = {int: "an integer", float: "a finite number", bool: "true or false", str: "text"}
WORDS |= {types.NoneType: "null", dict: "a mapping"}


def typed(kind: type[T], values: Any) -> T:
    """An instance of a dataclass from a mapping of its fields, as `asdict` or JSON gives it.

    Lists become tuples where the field is one, and mappings the dataclass of the field.
    Raises: ValueError, in one line, for fields that are unknown, missing or of another type.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{shown(values)} stands where {kind.__name__} should")
    known = hints(cast(Any, kind))
    if unknown := [name for name in values if name not in known]:
        raise ValueError(f"{shown(unknown[0])} is unknown")
    found = {name: convert(known[name], value, name) for name, value in values.items()}
    for field in fields(kind):  # type: ignore[arg-type]
        needed = field.default is MISSING and field.default_factory is MISSING
        if needed and field.name not in found:
            raise ValueError(f"{field.name} is missing")
    return kind(**found)


@cache
def hints(kind: Any) -> dict[str, Any]:
    """The types of a dataclass's fields."""
    known = typing.get_type_hints(kind)
    return {field.name: known[field.name] for field in fields(kind)}


def convert(kind: Any, value: Any, name: str) -> Any:
    """A value as the type of its field. Raises ValueError where it is of another."""
    if is_dataclass(kind):
        return typed(kind, value)  # type: ignore[arg-type]
    origin, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        one = next((each for each in inner if fits(each, value)), None)
        if one is not None:
            return convert(one, value, name)
    elif fits(kind, value):
        if origin in (tuple, list):
            each = inner if origin is tuple and ... not in inner else inner[:1] * len(value)
            return origin(convert(k, x, name) for k, x in zip(each, value, strict=True))
        return value
    raise ValueError(f"{name} is {shown(value)}; it must be {words(kind)}")


def fits(kind: Any, value: Any) -> bool:
    """Whether a value is of a type; what is inside a list or a mapping is not compared."""
    origin, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin is typing.Literal:
        return isinstance(value, (str, int)) and value in inner
    if origin in (tuple, list):
        fixed = origin is tuple and ... not in inner
        return isinstance(value, (tuple, list)) and not (fixed and len(value) != len(inner))
    if origin is float:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and abs(value) < MOST and math.isfinite(value)
    if origin is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < MOST
    return kind is Any or isinstance(value, Mapping if is_dataclass(origin) else origin)


def words(kind: Any) -> str:
    """A type in words."""
    origin, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(words, inner))
    if origin is typing.Literal:
        return f"one of {', '.join(map(str, inner))}"
    if origin in (tuple, list):
        count = f"{len(inner)} values" if origin is tuple and ... not in inner else "values"
        return f"a list of {count}, each {words(inner[0])}"
    return WORDS.get(origin, "a mapping")


def shown(value: Any) -> str:
    """A value from a file in one short line."""
    plain = isinstance(value, (str, float, bool, types.NoneType))
    small = isinstance(value, int) and abs(value) < 1 << 99
    text = ascii(value) if plain or small else f"a {type(value).__name__}"
    return text if len(text) <= 40 else f"{text[:37]}..."
