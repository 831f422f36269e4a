"""Keys of a run's config and the types of their values, read from source by `ast`, not imported.

Importing torch takes seconds; refusing a misspelt key must not. Only the arguments that the source
states are checked: a class that is not found, a **kwargs or a type of another library accepts
everything, and the real parser decides. tests/apps/test_config_keys.py compares the two.
"""

from __future__ import annotations

import ast
import builtins
import collections.abc
import functools
import importlib.util
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import docstring_parser

from tttvideo.apps.commands.options import nearest

from .config_files import Setting


OWN = {
    "seed_everything": bool | int,
    "out": str,
    "wandb": typing.Literal["off", "online", "offline"],
    "save_every": int,
}
"""Keys of `fit` itself, and their types."""
TRAINER = ("lightning.pytorch.trainer.trainer", "Trainer")
CLASSES = ("trainer", "model", "data")
"""Keys whose groups are the arguments of a class."""
OPEN = ("config", "help", "print_config", "optimizer", "lr_scheduler")
"""Options of the parser, and groups whose class is torch's."""
SKIPPED = ("model", "train_dataloaders", "val_dataloaders", "dataloaders", "datamodule")
"""Arguments of Trainer.fit, validate and test that are no keys."""
MODELS = ("TokenModel", "VideoModel", "FrameTokenizerModel", "PixelModel")
PUBLIC = [f"tttvideo.training.{name}" for name in MODELS]
PUBLIC += [f"tttvideo.data.modules.{name}" for name in ("TokenData", "FrameData", "ClipData")]
KNOWN = vars(builtins) | vars(typing)
"""Names that every annotation may use."""
WORDS = {int: "an integer", float: "a number", bool: "true or false", str: "text"}
WORDS |= {types.NoneType: "null", list: "a list", tuple: "a list"}
SCALARS: dict[Any, Any] = {int: int, float: (int, float), bool: bool, str: (str, int, float)}
SCALARS |= {types.NoneType: types.NoneType}
SEQUENCES = (list, tuple, collections.abc.Sequence, collections.abc.Iterable)
UNIONS = (typing.Union, types.UnionType)


@dataclass(frozen=True)
class Key:
    """A type, or the Keys of a group; the default as it is written; a sentence."""

    type: Any
    default: str = ""
    doc: str = ""


Keys: TypeAlias = dict[str, Key]


def check_settings(settings: list[Setting], command: str) -> None:
    """Raise ValueError, in one line, for the first key that does not exist, or a wrong value."""
    root = root_keys(settings, command)
    for setting in settings:
        parts = setting.key.split(".")
        if parts[-1] == "class_path" or setting.key in CLASSES:
            check_class(setting)
            continue
        if parts[-1] == "help" or parts[0] in OPEN:
            continue
        key = look_up(root, parts)
        if key is None:
            known = [name for name, _ in listed(root)]
            raise ValueError(
                f"{setting.written} does not exist{nearest(setting.key, known)}; "
                f"`tttvideo {command} --help-keys` lists all"
            )
        if not (accepts(key.type, setting.value) or accepts(key.type, setting.text)):
            text = "without a value" if setting.text is None else setting.text
            raise ValueError(f"{setting.written} is {text}; it must be {allowed(key.type)}")


def check_class(setting: Setting) -> None:
    """Raise ValueError for a class of this package that does not exist."""
    path = str(setting.value)
    module, _, name = path.rpartition(".")
    if path.startswith("tttvideo.") and not isinstance(definition(module, name)[1], ast.ClassDef):
        raise ValueError(
            f"{setting.written} is {path}; it does not exist{nearest(path, PUBLIC)}; the classes "
            f"are {', '.join(PUBLIC)}"
        )


def listing(settings: list[Setting], command: str) -> str:
    """All keys of the set classes, a line each: type, default and a sentence."""
    lines = []
    for name, key in listed(root_keys(settings, command)):
        default = f" [{key.default}]" if key.default and not isinstance(key.type, dict) else ""
        lines.append(f"--{name}: {allowed(key.type)}{default}  {key.doc.split('. ')[0]}".rstrip())
    return "\n".join(lines)


def root_keys(settings: list[Setting], command: str) -> Keys:
    """Keys of a command; those of the model and the data are of the classes that are set."""
    root = {name: Key(kind) for name, kind in OWN.items()} | {"trainer": Key(arguments(*TRAINER))}
    for name in ("model", "data"):
        paths = [s.value for s in settings if s.key in (name, f"{name}.class_path")]
        module, _, class_name = str(paths[-1] if paths else "").rpartition(".")
        root[name] = Key(arguments(module, class_name))
    if isinstance(root["model"].type, dict):
        root["model"].type.pop("header", None)  # `fit` links it to the data
    own = arguments(*TRAINER, command)
    found: Keys = {} if own is Any else own
    return root | {name: key for name, key in found.items() if name not in SKIPPED}


def look_up(keys: Keys, parts: list[str]) -> Key | None:
    """The key of a dotted name; None where it does not exist."""
    key = keys.get(parts[0])
    if key is None or len(parts) == 1:
        return key
    return look_up(key.type, parts[1:]) if isinstance(key.type, dict) else Key(Any)


def listed(keys: Keys, group: str = "") -> Iterator[tuple[str, Key]]:
    """Dotted names with their keys, each group before its keys."""
    for name, key in keys.items():
        yield f"{group}{name}", key
        if isinstance(key.type, dict):
            yield from listed(key.type, f"{group}{name}.")


def accepts(kind: Any, value: Any) -> bool:
    """Whether a value is of this type; True where the type is not known."""
    if isinstance(kind, dict):
        return isinstance(value, dict)
    origin, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin in UNIONS:
        return any(accepts(each, value) for each in inner)
    if origin is typing.Literal:
        return value in inner
    if origin in SEQUENCES and inner:
        return isinstance(value, list) and all(accepts(inner[0], each) for each in value)
    if origin is float and isinstance(value, str):  # YAML reads 1e-3 as text, the parser does not
        return re.fullmatch(r"[-+]?[\d.]+([eE][-+]?\d+)?", value) is not None
    if origin in SCALARS:
        return isinstance(value, SCALARS[origin]) and (origin is bool) >= isinstance(value, bool)
    return True


def allowed(kind: Any) -> str:
    """A type in words."""
    if isinstance(kind, dict):
        return "a group of keys"
    origin, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin in UNIONS:
        return " or ".join(dict.fromkeys(map(allowed, inner)))
    if origin is typing.Literal:
        return f"one of {', '.join(map(str, inner))}"
    return WORDS.get(origin, "any")


# Source: modules, definitions, arguments


@functools.cache
def source(module: str) -> tuple[list[ast.stmt], str]:
    """A module's statements and the name of its package; neither of them is imported."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top) if top.isidentifier() else None
    if spec is None or not spec.origin:
        return [], ""
    path = Path(spec.origin).parent.joinpath(*rest) if rest else Path(spec.origin)
    if rest:
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return (ast.parse(path.read_text(encoding="utf-8")).body if path.is_file() else []), package


def definition(module: str, name: str) -> tuple[str, ast.ClassDef | ast.expr | None]:
    """The module that defines a name, followed through imports, and its class or value."""
    body, package = source(module)
    for node in body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module, node
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if name in map(ast.unparse, targets):
                return module, node.value
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if name == (alias.asname or alias.name):
                    origin = "." * node.level + (node.module or "")
                    return definition(importlib.util.resolve_name(origin, package), alias.name)
    return module, None


def arguments(module: str, name: str, method: str = "__init__") -> Any:
    """Keys of a class's arguments; Any where its source does not state them."""
    module, node = definition(module, name)
    if not isinstance(node, ast.ClassDef):
        return Any
    if is_dataclass(node):
        return fields(module, node)
    functions = [each for each in node.body if isinstance(each, ast.FunctionDef)]
    function = next((each for each in functions if each.name == method), None)
    if function is None:
        return arguments(module, ast.unparse(node.bases[0]), method) if node.bases else Any
    given = function.args
    if given.kwarg:
        return Any
    defaults = [None] * (len(given.args) - len(given.defaults)) + given.defaults + given.kw_defaults
    docs = documented(node) | documented(function)
    both = list(zip(given.args + given.kwonlyargs, defaults, strict=True))[1:]  # without self
    return {a.arg: key(module, a.annotation, value, docs.get(a.arg)) for a, value in both}


def fields(module: str, node: ast.ClassDef) -> Any:
    """Keys of a dataclass and its bases."""
    found: Keys = {}
    for base in node.bases:
        inherited = arguments(module, ast.unparse(base))
        if inherited is Any:
            return Any
        found |= inherited
    for each, after in pairwise([*node.body, node]):
        if isinstance(each, ast.AnnAssign):
            below = after.value if isinstance(after, ast.Expr) else None
            doc = str(below.value) if isinstance(below, ast.Constant) else ""
            found[ast.unparse(each.target)] = key(module, each.annotation, each.value, doc)
    return found


def is_dataclass(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(each).split("(")[0] for each in node.decorator_list)


def documented(node: ast.ClassDef | ast.FunctionDef) -> dict[str, str | None]:
    """The sentences of a docstring's arguments."""
    found = docstring_parser.parse(ast.get_docstring(node) or "")
    return {one.arg_name: one.description for one in found.params}


def key(module: str, kind: ast.expr | None, default: ast.expr | None, doc: str | None) -> Key:
    text = ast.unparse(default) if default else ""
    return Key(evaluate(module, kind), text, " ".join((doc or "").split()))


def evaluate(module: str, annotation: ast.expr | None) -> Any:
    """The type of an annotation, also of a quoted one; Any for names that are not found."""
    if annotation is None:
        return Any
    used = {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)}
    try:
        names = {name: meaning(module, name) for name in used - KNOWN.keys()}
        kind = eval(ast.unparse(annotation), KNOWN | names)
    except (TypeError, AttributeError, NameError):
        return Any
    return evaluate(module, ast.parse(kind, mode="eval").body) if isinstance(kind, str) else kind


def meaning(module: str, name: str) -> Any:
    """The keys of a dataclass, the type of an alias, the names in a dict; Any of other names."""
    module, node = definition(module, name)
    if isinstance(node, ast.Dict):  # Literal[tuple(MIXERS)]
        return dict.fromkeys(k.value for k in node.keys if isinstance(k, ast.Constant))
    if isinstance(node, ast.ClassDef):
        return fields(module, node) if is_dataclass(node) else Any
    return evaluate(module, node)
