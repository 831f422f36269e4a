"""Config files of `tttvideo fit`, packaged or a user's, and the keys that they and arguments set.

Nothing here imports torch, so that a mistake in a config is refused early.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


CONFIGS = Path(__file__).parent.parent / "configs"
PLANS = CONFIGS / "reproduce"  # of `tttvideo reproduce`, no configs of `fit`
CONFIG_OPTIONS = ("--config", "-c")


@dataclass(frozen=True)
class Setting:
    """A key and the value that it is given."""

    key: str  # dotted, without init_args: model.backbone.width
    value: Any  # as YAML reads it
    text: Any  # the text of an argument, which may be meant as it is; the value in a file
    written: str  # the option, or file, line and key


def find_config(name: str) -> Path:
    """A file, or a packaged config or layer by its name, for instance text_tiny or context/8k."""
    if Path(name).is_file():
        return Path(name)
    packaged = CONFIGS / f"{name}.yaml"
    if not packaged.is_file() or packaged.parent == PLANS:
        names = packaged_names(name.rpartition("/")[0])
        raise ValueError(f"there is no config file {name}, and no packaged one ({names})")
    return packaged


def packaged_names(folder: str = "") -> str:
    """The packaged layers of `folder`; of another name, all configs and the folders of layers."""
    folders = sorted({path.parent.name for path in CONFIGS.glob("*/*.yaml")} - {PLANS.name})
    if folder in folders:
        return ", ".join(f"{folder}/{name}" for name in stems(CONFIGS / folder))
    layers = ", ".join(f"{name}/" for name in folders)
    return f"{', '.join(stems(CONFIGS))}; and layers to put on top, in {layers}"


def stems(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yaml"))


def split(arguments: list[str]) -> Iterator[tuple[str, str | None]]:
    """Pairs (option, value) of `--option value` and `--option=value`; None where there is none."""
    rest = list(arguments)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        follows = rest and not (rest[0].startswith("-") and rest[0][1:2].strip(".0123456789"))
        yield name, value if equals else rest.pop(0) if follows else None


def find_configs(arguments: list[str]) -> list[str]:
    """The arguments, with names of packaged configs replaced by their files.

    Raises ValueError where a file is missing, or an overlay has no base config before it.
    """
    found, paths = list[str](), list[Path]()
    for name, value in split(arguments):
        if name in CONFIG_OPTIONS:
            paths.append(find_config(value or ""))
            value = str(paths[-1])
        found.append(name if value is None else f"{name}={value}")
    if paths and paths[0].parent.parent == CONFIGS:
        name = str(paths[0].relative_to(CONFIGS).with_suffix(""))
        base = "video_frames_tiny" if name.startswith("memory/") else "text_tiny"
        raise ValueError(
            f"{name} is an overlay; name a base config before it: --config {base} --config {name}"
        )
    return found


def settings(arguments: list[str]) -> list[Setting]:
    """The settings of arguments and their config files, in the order in which they are read.

    Settings of a class are dropped where a later file or argument names another class.
    """
    found: list[Setting] = []
    for name, value in split(arguments):
        new = read_config(Path(value or "")) if name in CONFIG_OPTIONS else argument(name, value)
        for setting in new:
            found = [*without_other_class(found, setting), setting]
    return found


def argument(option: str, value: Any) -> Iterator[Setting]:
    """The setting of an argument; of a mapping, for instance '{depth: 3}', one for each key."""
    try:
        read = yaml.safe_load(value) if isinstance(value, str) else value
    except yaml.YAMLError:
        read = value
    if isinstance(read, dict):
        for key, inner in read.items():
            yield from argument(f"{option}.{key}", inner)
    else:
        yield Setting(plain(option.removeprefix("--")), read, value, option)


def plain(key: str) -> str:
    """A dotted key without init_args, and without the + that appends to a list."""
    return ".".join(part for part in key.split(".") if part != "init_args").removesuffix("+")


def without_other_class(found: list[Setting], setting: Setting) -> list[Setting]:
    group, _, last = setting.key.rpartition(".")
    if last != "class_path" or setting.value in (s.value for s in found if s.key == setting.key):
        return found
    return [old for old in found if not old.key.startswith(f"{group}.")]


def read_config(path: Path) -> list[Setting]:
    """The settings of a YAML file. Raises ValueError where it is not YAML, or not a mapping."""
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise ValueError(f"{path} is not a config; it must be a YAML mapping of keys to values")
        return list(flat(loader, node, path))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ValueError(f"{path}, line {line} is not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: it is not text in UTF-8") from error


def flat(
    loader: yaml.SafeLoader, node: yaml.MappingNode, path: Path, group: str = ""
) -> Iterator[Setting]:
    """Settings of a mapping and of the mappings in it, the class before its arguments."""
    loader.flatten_mapping(node)  # `<<: *anchor`
    for key, value in sorted(node.value, key=lambda pair: pair[0].value != "class_path"):
        whole = plain(f"{group}.{key.value}".removeprefix("."))
        if isinstance(value, yaml.MappingNode) and value.value:
            yield from flat(loader, value, path, whole)
        else:
            written = f"{path}, line {key.start_mark.line + 1}: {whole}"
            read = loader.construct_object(value, deep=True)
            yield Setting(whole, read, read, written)
