"""Stages of a long command, which are done once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tttvideo.files import read_json, write_json


class Stages:
    """Finished stages and their settings, in a file, so that they are not repeated.

    total: the number of stages that are numbered for the user.
    """

    def __init__(self, path: Path, total: int):
        self.path, self.total, self.number = path, total, 0
        self.done: dict[str, Any] = read_json(path, "delete it") if path.is_file() else {}

    def do(self, name: str, settings: Any, title: str, work: Callable[[], None]) -> None:
        """Announce a stage, and do it `once`.

        title: for the user: the work, and its time on two CPU cores.
        """
        finished = self.done.get(name) == settings
        self.announce(f"{title.splitlines()[0]}: already done" if finished else title)
        self.once(name, settings, work)

    def once(self, name: str, settings: Any, work: Callable[[], None]) -> None:
        """Do a stage unless it is finished with these settings; those after it are repeated."""
        if self.done.get(name) == settings:
            return
        names = list(self.done)
        kept = names[: names.index(name)] if name in names else names
        self.save({kept_name: self.done[kept_name] for kept_name in kept})
        work()
        self.save(self.done | {name: settings})

    def announce(self, title: str) -> None:
        """Print the title of the next stage."""
        self.number += 1
        print(f"\n{self.number} of {self.total}: {title}", flush=True)

    def save(self, done: dict[str, Any]) -> None:
        self.done = done
        write_json(self.path, self.done, indent=None)
