"""Laws of mazes: walks explore and return, poses are exact, the same seed gives the same files.

Tests that draw need ViZDoom and are skipped without it.
"""

import json
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from importlib.util import find_spec
from math import cos, radians, sin
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tttvideo.apps.cli import main
from tttvideo.apps.commands import prepare_maze
from tttvideo.apps.show.maze_sheet import best_return
from tttvideo.data.video import mazes_folder
from tttvideo.data.video.mazes import (
    ACTIONS,
    FORWARD,
    HEADINGS,
    LEFT,
    RIGHT,
    STAY,
    STEP,
    TURN,
    WALL,
    Walker,
    grid,
    random_maze,
    revisits,
    route,
    wall_lines,
)
from tttvideo.data.video.mazes_doom import LARGEST, MOST_CELLS, film_maze, view
from tttvideo.data.video.mazes_folder import MazeOptions, prepare_mazes
from tttvideo.data.video.reader import VideoReader


RADIUS = 16 / 128  # of Doom's player, in cells
needs_doom = pytest.mark.skipif(
    find_spec("vizdoom") is None, reason="needs ViZDoom: pip install 'tttvideo[doom]'"
)


def maze(cells, seed):
    return random_maze(cells, np.random.default_rng(seed))


def next_pose(pose, action):
    x, y, angle = pose
    step = STEP * (action == FORWARD)
    turn = TURN * ((action == LEFT) - (action == RIGHT))
    return x + step * cos(radians(angle)), y + step * sin(radians(angle)), (angle + turn) % 360


def walk(cells, seed, frames):
    """A maze, and the poses and actions of a walk by the laws of motion alone."""
    random = np.random.default_rng(seed)
    walls = random_maze(cells, random)
    walker = Walker(walls, (0, 0), random)
    pose, poses, actions = (0.5, 0.5, 0.0), [], []
    for _ in range(frames):
        poses.append(pose)
        actions.append(walker.act(*pose[:2], round(pose[2] / TURN)))
        pose = next_pose(pose, actions[-1])
    return walls, np.array(poses), np.array(actions)


@pytest.mark.parametrize("cells", [2, 5, 9])
def test_every_cell_of_a_maze_is_reached_and_there_are_ways_around(cells):
    walls = maze(cells, seed=1)
    for cell in grid(cells):
        way = [(0, 0), *route(walls, (0, 0), cell)]
        assert way[-1] == cell and len(set(way)) == len(way)
        assert all(b in walls.around(a) for a, b in zip(way, way[1:], strict=False))
    assert len(walls.passages) > cells**2 - 1 or cells == 2


def test_mazes_of_other_seeds_differ_and_a_seed_repeats_its_own():
    assert maze(5, 1) == maze(5, 1) != maze(5, 2)


@pytest.mark.parametrize("cells", [2, 5, 9])
def test_walls_enclose_the_cells_and_their_passages(cells):
    walls = maze(cells, seed=3)
    lines = wall_lines(walls)
    starts, ends = ({line[side] for line in lines} for side in (0, 1))
    assert starts == ends and len(starts) == len(lines)  # closed, without crossings
    area = sum(bx * ay - ax * by for (ax, ay), (bx, by) in lines) / 2  # clockwise: positive
    free = cells**2 * (1 - WALL) ** 2 + len(walls.passages) * WALL * (1 - WALL)
    assert area == pytest.approx(free)


def distances(points, lines):
    """From each of the points (N, 2) to the nearest of the lines."""
    a, b = (np.array([line[side] for line in lines])[:, None] for side in (0, 1))
    along = ((points - a) * (b - a)).sum(-1) / ((b - a) ** 2).sum(-1)
    nearest = a + np.clip(along, 0, 1)[..., None] * (b - a)
    return np.hypot(*np.moveaxis(points - nearest, -1, 0)).min(0)


@pytest.mark.parametrize("seed", range(4))
def test_a_walk_explores_the_maze_returns_and_keeps_off_the_walls(seed):
    walls, poses, actions = walk(cells=4, seed=seed, frames=3000)
    assert len({(int(x), int(y)) for x, y, _ in poses}) == 16
    assert revisits(poses).mean() > 0.35
    assert distances(poses[:, :2], wall_lines(walls)).min() > 1.2 * RADIUS
    shares = np.bincount(actions, minlength=len(ACTIONS)) / len(actions)
    assert shares[FORWARD] > 0.4 and shares[[LEFT, RIGHT]].min() > 0.1
    assert 0 < shares[STAY] < 0.05
    swings = (actions[:-1] == LEFT) & (actions[1:] == RIGHT)
    assert swings.mean() < 0.005  # no trembling


def test_a_revisit_is_a_pose_that_was_first_met_long_before():
    here, turned, there = (0.1, 0.1, 350.0), (0.2, 0.3, 90.0), (0.6, 0.1, 0.0)
    poses = np.array([here, there, here, turned, (0.4, 0.4, 10.0), turned])
    assert revisits(poses, frames=2).tolist() == [False, False, True, False, True, True]
    assert revisits(poses, frames=3).tolist() == [False, False, False, False, True, False]


def test_a_view_is_the_mean_over_areas_of_the_middle_square():
    screen = np.random.default_rng(0).integers(256, size=(192, 256, 3), dtype=np.uint8)
    middle = screen[:, 32:-32].reshape(64, 3, 64, 3, 3).mean(axis=(1, 3))
    assert np.abs(view(screen, 64) - middle).max() < 1


@needs_doom
def test_a_pose_and_an_action_fix_the_next_pose():
    shots = list(film_maze(400, size=8, cells=3, seed=2))
    assert {shot.action for shot in shots} >= {FORWARD, LEFT, RIGHT}
    for shot, after in zip(shots, shots[1:], strict=False):
        assert after.pose == pytest.approx(next_pose(shot.pose, shot.action), abs=1e-4)


@needs_doom
@pytest.mark.parametrize("size", [8, 64, 100, LARGEST])
def test_views_are_squares_that_the_world_fills(size):
    images = np.stack([shot.image for shot in film_maze(3, size=size, seed=1)])
    assert (images.shape, images.dtype) == ((3, size, size, 3), np.uint8)
    edges = (images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1])
    assert all(edge.std(axis=1).max() > 0 for edge in edges)  # no bar


@needs_doom
def test_the_picture_stays_while_the_player_stays_and_a_turn_around_brings_it_back():
    shots = list(film_maze(1500, size=16, cells=3, seed=2))
    same = [(a, b) for a, b in zip(shots, shots[1:], strict=False) if a.action == STAY]
    assert same and all((a.image == b.image).all() for a, b in same)
    seen = {}
    for shot in shots:  # whatever the way back to a pose
        assert (shot.image == seen.setdefault(shot.pose, shot.image)).all()
    assert len(seen) < len(shots) - len(same)


@needs_doom
def test_more_frames_continue_the_same_walk_and_another_seed_takes_another():
    short, long, other = (list(film_maze(n, seed=s)) for n, s in ((5, 3), (9, 3), (5, 4)))
    for a, b in zip(short, long, strict=False):
        assert (a.image == b.image).all() and a[1:] == b[1:]
    assert any((a.image != b.image).any() for a, b in zip(short, other, strict=True))


def files(folder):
    """The content of each file by its name."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


OPTIONS = MazeOptions(videos=3, held_out=1, frames=40, size=16, cells=3, seed=5)


@pytest.fixture(scope="module")
def mazes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mazes") / "one"
    return folder, prepare_mazes(folder, OPTIONS, workers=1)


@needs_doom
def test_the_number_of_workers_changes_no_bit_and_videos_differ(mazes, tmp_path):
    one, manifest = mazes
    assert prepare_mazes(tmp_path / "two", OPTIONS, workers=2) == manifest
    assert files(tmp_path / "two") == files(one)
    videos = [content for name, content in files(one).items() if name.endswith(".mp4")]
    assert len(set(videos)) == len(videos) == 4


@needs_doom
def test_a_file_holds_what_this_process_draws_and_its_actions_and_poses(mazes, monkeypatch):
    folder, manifest = mazes
    monkeypatch.chdir(folder)
    before = files(folder)
    shots = list(film_maze(40, size=16, cells=3, seed=(5, 0, True)))
    path = folder / "held_out" / "00000.mp4"
    read = list(VideoReader(path, 16))
    assert all((a.image == b.image).all() for a, b in zip(read, shots, strict=True))
    actions, poses = (np.load(path.with_suffix(f".{name}.npy")) for name in ("actions", "poses"))
    assert actions.tolist() == [shot.action for shot in shots]
    assert np.array_equal(poses, np.array([shot.pose for shot in shots], np.float32))
    assert manifest["actions"] == ACTIONS and manifest["videos"][3]["file"] == "held_out/00000.mp4"
    assert files(folder) == before  # the engine leaves nothing behind


@needs_doom
def test_what_is_finished_is_kept_and_what_is_missing_is_made_again(mazes):
    folder, manifest = mazes
    before, kept = files(folder), (folder / "train/00000.mp4").stat()
    (folder / "train/00001.mp4").unlink()
    (folder / "train/00002.mp4").rename(folder / "train/00002.mp4.partial")
    assert prepare_mazes(folder, OPTIONS, workers=1) == manifest
    assert files(folder) == before
    after = (folder / "train/00000.mp4").stat()
    assert (after.st_ino, after.st_mtime_ns) == (kept.st_ino, kept.st_mtime_ns)


@needs_doom
def test_a_folder_of_other_options_or_other_files_is_refused(mazes, tmp_path, monkeypatch):
    folder, _ = mazes
    with pytest.raises(ValueError, match="prepared with frames 40, not 41, seed 5, not 6; name"):
        prepare_mazes(folder, replace(OPTIONS, frames=41, seed=6), workers=1)
    monkeypatch.setattr(mazes_folder, "VERSION", 7)
    with pytest.raises(ValueError, match="prepared with version 1, not 7; name"):
        prepare_mazes(folder, OPTIONS, workers=1)
    (tmp_path / "manifest.json").write_text('{"plan": 1}')
    with pytest.raises(ValueError, match="prepared with another command"):
        prepare_mazes(tmp_path, OPTIONS, workers=1)
    (tmp_path / "manifest.json").rename(tmp_path / "notes.txt")
    with pytest.raises(ValueError, match="holds other files"):
        prepare_mazes(tmp_path, OPTIONS, workers=1)


def engines():
    """Process ids of the engines below this process."""
    found, parents = [], [os.getpid()]
    while parents:
        for task in Path(f"/proc/{parents.pop()}/task").glob("*/children"):
            parents += (children := [int(word) for word in task.read_text().split()])
            found += [
                pid for pid in children if Path(f"/proc/{pid}/comm").read_text() == "vizdoom\n"
            ]
    return found


@needs_doom
def test_an_engine_that_is_killed_is_reported():
    shots = film_maze(1000, size=8)
    next(shots)
    (engine,) = engines()
    os.kill(engine, signal.SIGKILL)
    with pytest.raises(OSError, match=r"^the Doom engine ended early \(.*\)$"):
        list(shots)


@needs_doom
def test_a_worker_that_is_killed_ends_the_command_and_leaves_no_engine(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # of the worker, which cannot remove its folder
    running, words = [], []

    def kill():
        while not running:
            time.sleep(0.05)
            running.extend(engines() if (tmp_path / "out/train/00000.mp4.partial").exists() else [])
        words.extend(Path(f"/proc/{running[0]}/cmdline").read_text().split("\0"))
        os.kill(active_children()[0].pid, signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    with pytest.raises(OSError, match="a worker process died.* run the command again"):
        prepare_mazes(tmp_path / "out", replace(OPTIONS, frames=10**6), workers=1)
    until = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in running) and time.monotonic() < until:
        time.sleep(0.05)
    assert running and not any(Path(f"/proc/{pid}").exists() for pid in running)
    for shared in Path("/dev/shm").glob(f"ViZDoom*{words[words.index('+viz_instance_id') + 1]}"):
        shared.unlink()  # an engine that is killed leaves its shared memory


@needs_doom
def test_the_command_prints_the_share_of_revisits(tmp_path, capsys):
    options = ["--videos=1", "--held-out=0", "--frames=300", "--cells=2", "--size=8"]
    main(["prepare", "maze", "--out", str(tmp_path), *options])
    mean = json.loads((tmp_path / "manifest.json").read_text())["revisited"]
    assert 0 < mean < 0.5
    printed = capsys.readouterr().out
    assert f"300 frames each; {mean:.1%} of the frames show" in printed and "sheet.png" in printed
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 128 and sheet.height > 2 * 128
    assert best_return(tmp_path / "train" / "00000.poses.npy")


def test_the_sheet_shows_the_most_similar_pose_of_those_that_return(tmp_path):
    poses = np.zeros((400, 3), np.float32)
    poses[:, 0] = np.arange(400)  # a new place in each frame
    poses[200], poses[390], poses[300] = (10, 0.2, 0), (10, 0, 350), (20, 0.01, 359)
    np.save(tmp_path / "a.poses.npy", poses)
    assert best_return(tmp_path / "a.poses.npy") == (20, 300)
    np.save(tmp_path / "b.poses.npy", poses[:160])
    assert best_return(tmp_path / "b.poses.npy") is None


def test_without_vizdoom_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "vizdoom", None)
    with pytest.raises(ValueError, match=r"pip install 'tttvideo\[doom\]'"):
        next(film_maze(1))
    monkeypatch.setattr(prepare_maze, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"prepare maze: mazes need ViZDoom; .*tttvideo\[doom\]"):
        main(["prepare", "maze", "--out", str(tmp_path)])


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs a set of cores")
def test_a_job_that_has_one_core_gets_one_worker():
    cores = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(cores)})
        assert prepare_maze.parser().parse_args(["--out", "x"]).workers == 1
    finally:
        os.sched_setaffinity(0, cores)


def test_headings_are_whole_parts_of_a_turn():
    assert HEADINGS * TURN == 360 and 90 % TURN == 0  # exact in the engine's binary angles


def test_the_command_refuses_what_the_engine_would():
    assert (prepare_maze.LARGEST, prepare_maze.MOST_CELLS) == (LARGEST, MOST_CELLS)
    for wrong in ({"size": LARGEST + 1}, {"cells": MOST_CELLS + 1}, {"cells": 1}):
        with pytest.raises(ValueError, match="must be 1 to 480 and 2 to 100"):
            next(film_maze(1, **wrong))
