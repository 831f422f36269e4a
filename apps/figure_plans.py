"""Plans of figures, configs/reproduce/NAME.yaml: the commands that make a figure from nothing.

A plan begins with a comment that says "about N minutes on two cores". Its keys:

    title    one sentence
    seeds    a step that names {seed} runs once for each (left out: 0)
    sizes    values by device, cpu and gpu, with the same keys in both
    steps    commands of tttvideo, without its name

In a step {out} is the folder of the figure, {KEY} a value of `sizes` (of a list, a word for each),
and {all:WORD} the word once for every seed. Nothing here imports torch.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tttvideo.apps.commands import COMMANDS, find, parse

from .config_files import PLANS, Setting, read_config, stems


MINUTES = re.compile(r"# .*\babout (\d+) minutes\b")
PLACE = re.compile(r"\{(\w+)\}")
FOR_ALL = re.compile(r"\{all:(.+)\}")
SIZE = re.compile(r"sizes\.(cpu|gpu)\.(\w+)")
DEVICES = "cpu", "gpu"
Values = Mapping[str, Any]


@dataclass(frozen=True)
class FigurePlan:
    """What a plan says; sizes: by device, then by key."""

    path: Path
    title: str
    minutes: int
    seeds: tuple[int, ...]
    sizes: Mapping[str, Values]
    steps: tuple[str, ...]

    def commands(self, out: Path, device: str, changes: Values) -> list[list[str]]:
        """The words of every command; device: cpu or gpu; changes: sizes that replace the plan's.

        Raises ValueError, in one line, for a place that has no value and for unknown `changes`.
        """
        sizes = self.sizes[device]
        if unknown := [key for key in changes if key not in sizes]:
            known = ", ".join(sizes) or "none"
            raise ValueError(f"{self.path} has no size {unknown[0]}; its sizes: {known}")
        values = {**sizes, **changes, "out": str(out)}
        found = []
        for number, step in enumerate(self.steps, 1):
            try:
                found += [list(fill(step, values, self.seeds, seed)) for seed in self.runs(step)]
            except ValueError as error:
                raise ValueError(f"{self.path}, step {number}: {error}") from error
        return found

    def runs(self, step: str) -> tuple[int, ...]:
        """The seeds that a step runs with; a step that names none runs once."""
        return self.seeds if "{seed}" in FOR_ALL.sub("", step) else self.seeds[:1]


def fill(step: str, values: Values, seeds: tuple[int, ...], seed: int) -> Iterator[str]:
    """The words of a step with its places filled."""
    for word in shlex.split(step):
        for_all, place = FOR_ALL.fullmatch(word), PLACE.fullmatch(word)
        if for_all:
            yield from (fill_word(for_all[1], {**values, "seed": one}) for one in seeds)
        elif place and isinstance(values.get(place[1]), list):
            yield from map(str, values[place[1]])
        else:
            yield fill_word(word, {**values, "seed": seed})


def fill_word(word: str, values: Values) -> str:
    for name in PLACE.findall(word):
        if name not in values:
            raise ValueError(f"{{{name}}} has no value; there are {', '.join(sorted(values))}")
    return PLACE.sub(lambda place: str(values[place[1]]), word)


def check_commands(plan: FigurePlan, out: Path, changes: Values) -> None:
    """Refuse a plan with a command that cannot be parsed, on either device."""
    for device in DEVICES:
        for words in plan.commands(out, device, changes):
            try:
                name, rest = find(words)
                if COMMANDS[name][0] is None or name == "reproduce":
                    raise ValueError(f"{name} is no command that a plan may run")
                parse(name, rest)
            except ValueError as error:
                raise ValueError(f"{plan.path}: `tttvideo {shlex.join(words)}`: {error}") from error


def find_plan(name: str) -> Path:
    """A file, or a packaged plan by its name."""
    path = Path(name) if Path(name).is_file() else PLANS / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"there is no figure {name}; choose from {', '.join(stems(PLANS))}")
    return path


def read_plan(path: Path) -> FigurePlan:
    """Read a plan. Raises ValueError, in one line, for what is no plan."""
    settings = read_config(path)
    for setting in settings:
        if setting.key not in ("title", "seeds", "steps") and not SIZE.fullmatch(setting.key):
            keys = "title, seeds, sizes.cpu.KEY, sizes.gpu.KEY and steps"
            raise ValueError(f"{setting.written} is no key of a plan, which are {keys}")
        check_value(setting)
    values = {setting.key: setting.value for setting in settings}
    minutes = MINUTES.match(path.read_text(encoding="utf-8").split("\n")[0])
    if not minutes or not {"title", "steps"} <= values.keys():
        missing = "title or steps is" if minutes else "'about N minutes on two cores' in line 1 is"
        raise ValueError(f"{path} is no plan of a figure: {missing} missing")
    sizes = {device: sizes_of(device, values) for device in DEVICES}
    if sizes["cpu"].keys() != sizes["gpu"].keys():
        raise ValueError(f"{path}: sizes.cpu and sizes.gpu must have the same keys")
    seeds, steps = tuple(values.get("seeds", [0])), tuple(values["steps"])
    return FigurePlan(path, values["title"], int(minutes[1]), seeds, sizes, steps)


def sizes_of(device: str, values: Values) -> Values:
    start = f"sizes.{device}."
    return {key.removeprefix(start): x for key, x in values.items() if key.startswith(start)}


def check_value(setting: Setting) -> None:
    """Refuse a value of another type than its key has."""
    value, key = setting.value, setting.key
    scalar = str if key in ("title", "steps") else int if key == "seeds" else (int, float, str)
    listed = value if isinstance(value, list) and key != "title" else [value]
    good = listed and all(isinstance(x, scalar) and not isinstance(x, bool) for x in listed)
    if not good or (key in ("seeds", "steps") and not isinstance(value, list)):
        kinds = {"title": "text", "seeds": "a list of integers", "steps": "a list of commands"}
        kind = kinds.get(key, "a number, a text or a list of them")
        raise ValueError(f"{setting.written} is {value!r}; it must be {kind}")
