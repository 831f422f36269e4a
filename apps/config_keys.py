"""Keys of a run's config and the types of their values, read from source by `ast`, not imported.

Importing torch takes seconds; refusing a misspelt key must not. Only what the source states is
judged: a class that is not found, a **kwargs or a type of another library accepts everything, and
is left to the real parser. tests/apps/test_config_keys.py compares the two.
"""

from __future__ import annotations

import ast
import collections.abc
import functools
import importlib.util
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docstring_parser

from tttvideo.apps.commands.options import nearest

from .config_files import Setting


OWN = {
    "seed_everything": "bool | int",
    "out": "str",
    "wandb": "Literal['off', 'online', 'offline']",
    "save_every": "int",
}
"""Keys of `fit` itself, and their types."""
CLASSES = ("trainer", "model", "data")
"""Keys whose groups are the arguments of a class."""
OPEN = ("config", "help", "print_config", "optimizer", "lr_scheduler")
"""Options of the parser, and groups whose class is torch's."""
SKIPPED = ("self", "model", "train_dataloaders", "val_dataloaders", "dataloaders", "datamodule")
"""Arguments of Trainer.fit, validate and test that are no keys."""
WORDS = {int: "an integer", float: "a number", bool: "true or false", str: "text"}
WORDS |= {types.NoneType: "null", list: "a list", tuple: "a list"}
SCALARS: dict[Any, Any] = {int: int, float: (int, float), bool: bool, str: (str, int, float)}
SCALARS |= {types.NoneType: types.NoneType}
GROUP = "a group of keys"
SEQUENCES = (list, tuple, collections.abc.Sequence, collections.abc.Iterable)


@dataclass(frozen=True)
class Key:
    """A type, or a Group; the default as the source has it; a sentence."""

    type: Any
    default: str = ""
    doc: str = ""


class Group:
    """The type of a key that has keys below it: a dataclass, or a class that a config names."""

    keys: dict[str, Key]


def check_settings(settings: list[Setting], command: str) -> None:
    """Raise ValueError, in one line, for the first key that does not exist, or a wrong value."""
    root = root_keys(settings, command)
    for setting in settings:
        parts = setting.key.split(".")
        if parts[-1] in ("help", "class_path") or parts[0] in OPEN or setting.key in CLASSES:
            continue
        key = look_up(root, parts)
        if key is None:
            known = [name for name, _ in listed(root)]
            raise ValueError(
                f"{setting.written} does not exist{nearest(setting.key, known)}; "
                f"`tttvideo {command} --help-keys` lists all"
            )
        if not any(accepts(key.type, value) for value in setting.values):
            value = "without a value" if setting.value is None else setting.value
            raise ValueError(f"{setting.written} is {value}; it must be {allowed(key.type)}")


def listing(settings: list[Setting], command: str) -> str:
    """All keys that the set classes have, a line each: type, default and a sentence."""
    lines = []
    for name, key in listed(root_keys(settings, command)):
        kind, sentence = allowed(key.type), key.doc.split(". ")[0]
        default = f" [{key.default}]" if key.default and kind != GROUP else ""
        lines.append(f"--{name}: {kind}{default}  {sentence}".rstrip())
    return "\n".join(lines)


def root_keys(settings: list[Setting], command: str) -> dict[str, Key]:
    """Keys of a command; those of the model and the data are of the classes that are set."""
    trainer = definition("lightning.pytorch.trainer.trainer", "Trainer")
    root = {name: Key(evaluate("typing", text)) for name, text in OWN.items()}
    root["trainer"] = Key(group(*trainer) if trainer else Any)
    for name in CLASSES[1:]:
        paths = [s.value for s in settings if s.key in (name, f"{name}.class_path")]
        found = definition(*str(paths[-1]).rpartition(".")[::2]) if paths else None
        root[name] = Key(group(*found) if found else Any)
    own = method(*trainer, command) if trainer else None
    return root | {name: key for name, key in (own or {}).items() if name not in SKIPPED}


def look_up(keys: dict[str, Key], parts: list[str]) -> Key | None:
    """The key of a dotted name; None where it does not exist."""
    key = keys.get(parts[0])
    if key is None or len(parts) == 1:
        return key
    below = keys_below(key)
    return Key(Any) if below is None else look_up(below, parts[1:])


def keys_below(key: Key) -> dict[str, Key] | None:
    """None where any are accepted."""
    return next((kind.keys for kind in members(key.type) if is_group(kind)), None)


def listed(keys: dict[str, Key], group: str = "") -> Iterator[tuple[str, Key]]:
    """Dotted names with their keys, each group before its keys."""
    for name, key in keys.items():
        yield f"{group}{name}", key
        yield from listed(keys_below(key) or {}, f"{group}{name}.")


# Types of values


def members(kind: Any) -> tuple[Any, ...]:
    """The types of a union, or the one."""
    union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    return typing.get_args(kind) if union else (kind,)


def accepts(kind: Any, value: Any) -> bool:
    """Whether a value is of this type; True where the type is not known."""
    origin, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
    if members(kind) != (kind,):
        return any(accepts(each, value) for each in members(kind))
    if origin is typing.Literal:
        return value in inner
    if origin in SEQUENCES and inner:
        return isinstance(value, list) and all(accepts(inner[0], each) for each in value)
    if origin is float and isinstance(value, str):  # YAML reads 1e-3 as text, the parser does not
        return re.fullmatch(r"[-+]?[\d.]+([eE][-+]?\d+)?", value) is not None
    if origin in SCALARS:
        return isinstance(value, SCALARS[origin]) and (origin is bool) >= isinstance(value, bool)
    return not is_group(origin) or isinstance(value, dict)


def is_group(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Group)


def allowed(kind: Any) -> str:
    """A type in words."""
    if members(kind) != (kind,):
        return " or ".join(dict.fromkeys(allowed(each) for each in members(kind)))
    origin = typing.get_origin(kind) or kind
    if origin is typing.Literal:
        return f"one of {', '.join(map(str, typing.get_args(kind)))}"
    return GROUP if is_group(origin) else WORDS.get(origin, "any")


# Source: modules, definitions, arguments


@functools.cache
def source(module: str) -> tuple[Path, ast.Module] | None:
    """A module's file and tree; neither it nor its package is imported."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top) if top.isidentifier() else None
    if spec is None or not spec.origin:
        return None
    path = Path(spec.origin).parent.joinpath(*rest) if rest else Path(spec.origin)
    if rest:
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return (path, ast.parse(path.read_text(encoding="utf-8"))) if path.is_file() else None


def definition(module: str, name: str) -> tuple[str, ast.stmt] | None:
    """The module and node that define a name, also where `module` imports it from another."""
    path, tree = source(module) or (Path(), ast.Module([], []))
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module, node
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and name in map(ast.unparse, targets):
            return module, node
        if isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names if name == (alias.asname or alias.name)]
            up = node.level - (path.name == "__init__.py")
            package = module.split(".")[: -up or None] if node.level else []
            origin = ".".join([*package, node.module or ""]).strip(".")
            if names:
                return definition(origin, names[0])
    return None


def group(module: str, node: ast.stmt) -> Any:
    """A class as a Group; Any where its source does not state its arguments."""
    keys = arguments(module, node)
    return Any if keys is None else type("Keys", (Group,), {"keys": keys})


def arguments(module: str, node: ast.stmt) -> dict[str, Key] | None:
    if not isinstance(node, ast.ClassDef):
        return None
    bases = [definition(module, ast.unparse(base)) for base in node.bases]
    if not is_dataclass(node):
        names = {each.name for each in node.body if isinstance(each, ast.FunctionDef)}
        first = None if "__init__" in names or not bases else bases[0]
        return arguments(*first) if first else method(module, node, "__init__")
    found: dict[str, Key] = {}
    for base in bases:
        inherited = arguments(*base) if base else None
        if inherited is None:
            return None
        found |= inherited
    for each, after in zip(node.body, [*node.body[1:], node], strict=True):
        if isinstance(each, ast.AnnAssign):
            doc = after.value if isinstance(after, ast.Expr) else None
            text = str(doc.value) if isinstance(doc, ast.Constant) else ""
            found[ast.unparse(each.target)] = key(module, each.annotation, each.value, text)
    return found


def is_dataclass(node: ast.stmt) -> bool:
    decorators = node.decorator_list if isinstance(node, ast.ClassDef) else []
    return any(ast.unparse(each).split("(")[0].endswith("dataclass") for each in decorators)


def method(module: str, node: ast.stmt, name: str) -> dict[str, Key] | None:
    """The arguments of a method; None if there is no such method, or it takes **kwargs."""
    for each in node.body if isinstance(node, ast.ClassDef) else []:
        if isinstance(each, ast.FunctionDef) and each.name == name:
            given, defaults = each.args.args + each.args.kwonlyargs, each.args.defaults
            missing = [None] * (len(each.args.args) - len(defaults))
            both = zip(given, [*missing, *defaults, *each.args.kw_defaults], strict=True)
            docs = documented(node) | documented(each)
            keys = {
                a.arg: key(module, a.annotation, default, docs.get(a.arg, ""))
                for a, default in both
                if a.arg not in SKIPPED
            }
            return None if each.args.kwarg else keys
    return None


def documented(node: ast.stmt) -> dict[str, str]:
    """The sentences of a docstring's arguments."""
    assert isinstance(node, (ast.ClassDef, ast.FunctionDef))
    found = docstring_parser.parse(ast.get_docstring(node) or "")
    return {one.arg_name: one.description or "" for one in found.params}


def key(module: str, annotation: ast.expr | None, default: ast.expr | None, doc: str = "") -> Key:
    kind = evaluate(module, ast.unparse(annotation)) if annotation else Any
    return Key(kind, ast.unparse(default) if default else "", " ".join(doc.split()))


def evaluate(module: str, annotation: str) -> Any:
    """An annotation's type, also of a quoted one; Any for names that are not found."""
    try:
        kind = eval(annotation, {}, Names(module))
    except (TypeError, AttributeError, NameError):
        return Any
    return evaluate(module, kind) if isinstance(kind, str) else kind


class Names(dict[str, Any]):
    """Names of a module: those of typing and builtins, aliases of types, and dataclasses."""

    def __init__(self, module: str):
        super().__init__(
            vars(typing) | {each.__name__: each for each in WORDS},
            Sequence=collections.abc.Sequence,
        )
        self.module = module

    def __missing__(self, name: str) -> Any:
        found = definition(self.module, name)
        value = (
            found[1].value if found and isinstance(found[1], (ast.Assign, ast.AnnAssign)) else None
        )
        if isinstance(value, ast.Dict):  # of which the names are used: Literal[tuple(MIXERS)]
            return dict.fromkeys(k.value for k in value.keys if isinstance(k, ast.Constant))
        if found and value:
            return evaluate(found[0], ast.unparse(value))
        return group(*found) if found and is_dataclass(found[1]) else Any
