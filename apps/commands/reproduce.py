"""`tttvideo reproduce [NAME]`: the options."""

import argparse
from pathlib import Path
from typing import Any

import yaml

from tttvideo.apps.config_files import PLANS, stems

from .options import Parser, check_folder


PROGRAM = "tttvideo.apps.reproduce:run"


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="tttvideo reproduce",
        description="Make a figure of results from nothing: draw the data, train the models "
        "and measure them, one command after the other, larger where there is a GPU. Without NAME: "
        "list the figures. A run that is started again resumes where it stopped; a command whose "
        "arguments have changed is repeated with all after it, and what it wrote is removed. "
        "Writes reproduce.json with the commands, their times, device, date and commit.",
        epilog="example: tttvideo reproduce codec",
    )
    add = top.add_argument
    help = f"a plan, of {', '.join(stems(PLANS))}, or a file like those in configs/reproduce"
    add("name", nargs="?", metavar="NAME|FILE", help=help)
    add("--out", metavar="DIR", help="folder of the figure (default: out/reproduce/NAME)")
    help = "change sizes of the plan, in a folder of its own; needs --out"
    add("--set", nargs="+", default=[], metavar="KEY=VALUE", help=help)
    return top


def check(options: argparse.Namespace) -> None:
    """Read the plan into `options.plan` and check its commands."""
    from tttvideo.apps.figure_plans import check_commands, find_plan, read_plan

    if not options.name:
        if options.out or options.set:
            raise ValueError(f"name the figure; choose from {', '.join(stems(PLANS))}")
        options.plans = [read_plan(path) for path in sorted(PLANS.glob("*.yaml"))]
        return
    path = find_plan(options.name)
    if options.set and not options.out:
        raise ValueError("--set needs --out DIR, so that the figure of other sizes is kept")
    options.changes = dict(map(change, options.set))
    options.out = Path(options.out or f"out/reproduce/{path.stem}")
    options.plan = read_plan(path)
    check_folder(str(options.out))
    check_commands(options.plan, options.out, options.changes)
    there = {path.name for path in options.out.glob("*")}
    if there - {"lock"} and "stages.json" not in there:
        raise ValueError(f"--out {options.out} holds other files; name an empty folder")


def change(word: str) -> tuple[str, Any]:
    """A key and the value, as YAML reads it, of KEY=VALUE."""
    key, equals, value = word.partition("=")
    try:
        read = yaml.safe_load(value)
    except yaml.YAMLError:
        read = None
    if not equals or not isinstance(read, (int, float, str, list)):
        raise ValueError(f"--set {word} must be KEY=VALUE")
    return key, read
