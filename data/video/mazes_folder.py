"""A folder of mazes: a lossless video of each, with its actions and poses.

out/manifest.json             the options; at the end also what each video shows again
out/train/00000.mp4
out/train/00000.actions.npy   (F,) what leads from a frame to the next, of mazes.ACTIONS
out/train/00000.poses.npy     (F, 3) x and y in cells, and the angle in degrees: a walk, for
                              tttvideo.video.address
out/held_out/...

A video exists when it is finished; a run that was stopped resumes with the others.
"""

import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tttvideo.data.corpus import check_empty
from tttvideo.data.tokens import MANIFEST, condition_path
from tttvideo.data.work_items import WorkerDied, without_interrupts
from tttvideo.files import read_json, write_json
from tttvideo.progress import progress

from .conditions import write_conditions
from .mazes import ACTIONS, revisits
from .mazes_doom import FPS, film_maze, vizdoom
from .writer import video_writer


VERSION = 1  # changes when the same options give other videos


@dataclass(frozen=True)
class MazeOptions:
    """Settings that fix the content of a folder, together with the version of ViZDoom."""

    videos: int
    held_out: int
    frames: int
    size: int = 64
    cells: int = 4
    seed: int = 0


def prepare_mazes(out: Path, options: MazeOptions, workers: int) -> dict[str, Any]:
    """Film all mazes, or those that are missing; returns the manifest.

    Raises: ValueError for a folder that was made with other options, or holds something else;
    OSError when the engine or a process ended early: the finished videos stay.
    """
    plan = {"version": VERSION, "vizdoom": vizdoom().__version__, "options": asdict(options)}
    open_folder(out, plan)
    counts = {"train": options.videos, "held_out": options.held_out}
    names = [f"{part}/{number:05}.mp4" for part, count in counts.items() for number in range(count)]
    with progress("walking", len(names), "mazes") as advance:
        missing = [name for name in names if not (out / name).exists()]
        advance(len(names) - len(missing))
        if missing:
            film_in_processes(out, missing, options, workers, advance)
    videos = [{"file": name, "revisited": revisited(out / name)} for name in names]
    mean = float(np.mean([video["revisited"] for video in videos]))
    manifest = plan | {"fps": FPS, "actions": ACTIONS, "revisited": mean, "videos": videos}
    write_json(out / MANIFEST, manifest)
    return manifest


def open_folder(out: Path, plan: dict[str, Any]) -> None:
    """Make the folder of a plan, or find it."""
    path = out / MANIFEST
    if path.exists():
        before = read_json(path, f"delete {out} and prepare it again")
        if found := differences(before, plan):
            raise ValueError(f"{out} was prepared with {found}; name another folder, or delete it")
        return
    check_empty(out)
    write_json(path, plan)


def differences(before: Any, plan: dict[str, Any]) -> str:
    """What another run had set otherwise, in words; "" if nothing."""
    if not isinstance(before, dict) or not isinstance(before.get("options"), dict):
        return "another command"
    made_by = "version", "vizdoom"
    old, new = (p["options"] | {key: p.get(key) for key in made_by} for p in (before, plan))
    return ", ".join(
        f"{name.replace('_', '-')} {old.get(name)}, not {value}"
        for name, value in new.items()
        if old.get(name) != value
    )


def film_in_processes(
    out: Path, names: Sequence[str], options: MazeOptions, workers: int, advance: Any
) -> None:
    context = get_context("spawn")  # a fork may inherit locks that the progress bar holds
    stop, others = context.Event(), active_children()
    started: list[int] = []
    with ProcessPoolExecutor(min(workers, len(names)), context, Worker.start, (stop,)) as pool:
        try:
            with without_interrupts():
                films = [pool.submit(Worker.film, out, name, options) for name in names]
            started += [p.pid for p in active_children() if p not in others and p.pid]
            for finished in as_completed(films):
                finished.result()
                advance(1)
        except BrokenProcessPool as error:
            for group in started:
                with suppress(ProcessLookupError):
                    os.killpg(group, signal.SIGKILL)  # also the engine of the dead one
            raise WorkerDied([]) from error
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


class Worker:
    """The state of a worker process."""

    stop: ClassVar[Any]  # an event, set when another video failed, or the command was stopped
    busy: ClassVar[threading.Lock]  # held while an engine runs

    @classmethod
    def start(cls, stop: Any) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process stops the workers
        os.setpgrp()  # a group of the worker and its engine
        for name in os.listdir("/dev/fd"):  # an engine that held them would hide a dead worker
            with suppress(OSError):
                os.set_inheritable(int(name), int(name) < 3)
        cls.stop, cls.busy = stop, threading.Lock()
        threading.Thread(target=cls.end_with_parent, daemon=True).start()

    @classmethod
    def end_with_parent(cls) -> None:
        parent = parent_process()
        assert parent is not None
        parent.join()
        cls.stop.set()
        with cls.busy:  # the engine ends first
            os._exit(1)

    @classmethod
    def film(cls, out: Path, name: str, options: MazeOptions) -> None:
        with cls.busy:
            film(out / name, options, cls.stop)


def film(path: Path, options: MazeOptions, stop: Any) -> None:
    """Write one video and what is known about its frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = (options.seed, int(path.stem), path.parent.name == "held_out")
    actions, poses = [], []
    try:
        with video_writer(path, FPS, lossless=True) as writer:
            for shot in film_maze(options.frames, options.size, options.cells, seed):
                if stop.is_set():
                    raise InterruptedError("another video failed")
                writer.write(shot.image)
                actions.append(shot.action)
                poses.append(shot.pose)
            write_conditions(path, actions=np.array(actions, "<i4"), poses=np.array(poses, "<f4"))
    except OSError as error:
        raise OSError(f"{path}: {error}; run the command again to resume") from error


def revisited(path: Path) -> float:
    """The share of frames whose pose was first met 150 or more frames before."""
    return float(revisits(np.load(condition_path(path, "poses"))).mean())
