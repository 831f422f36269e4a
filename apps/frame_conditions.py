"""What `tttvideo predict` tells a model of each frame: rows of its options or beside the video."""

import argparse
from pathlib import Path

import numpy as np

from tttvideo.data.video.sources import VideoSource
from tttvideo.measures.frame_conditions import (
    GIVEN,
    EstimatedPoses,
    FrameConditions,
    model_config,
)
from tttvideo.measures.frame_conditions import frame_conditions as read_conditions
from tttvideo.sampling.given_conditions import conditions_read
from tttvideo.sampling.saved_states import SavedState


def frame_conditions(
    network: object,
    options: argparse.Namespace,
    source: VideoSource,
    saved: SavedState | None,
    clock: tuple[np.ndarray, float],
    counts: tuple[int, int],
) -> FrameConditions:
    """What the model reads of all frames that are read and predicted; prints where each is from.

    Raises ValueError as the function of this name in measures does, and for files of conditions
    that the model does not read.

    clock: seconds of the video's frames, and frames per second beyond them.
    counts: frames of the context and of the horizon.
    """
    (times, fps), (known, ahead) = clock, counts
    given = given_files(options, network)
    beyond = times[-1] + np.arange(1, known + ahead + 1) / fps
    need = (
        f"{known} frames of context and {ahead} of horizon need {known + ahead}; choose a shorter "
        "--horizon"
    )
    found = read_conditions(
        network, source, np.append(times, beyond), known + ahead, given, ("actions", "poses"), need
    )
    for name, where in found.about.items():
        missing = where in ("missing", "estimated")
        note = f"note: no {name} beside {source.path}, so they are {where}"
        print(note if missing else f"{name} of each frame: {where}")
    check_poses(found, saved)
    if saved and found.camera:
        found.camera = EstimatedPoses(saved.camera)
    return found


def given_files(options: argparse.Namespace, network: object) -> dict[str, Path]:
    """The files of the options --actions and --poses; ValueError for one that is not read."""
    reads = conditions_read(model_config(network))
    files = {name: getattr(options, name, None) for name in GIVEN}
    for name, file in files.items():
        if file and name not in reads:
            raise ValueError(f"--{name} {file}: {options.checkpoint} reads no {name}; leave it out")
    return {name: Path(file) for name, file in files.items() if file}


def check_poses(found: FrameConditions, saved: SavedState | None) -> None:
    """Raises ValueError for a saved state whose poses were not found in the same way."""
    if saved and (found.camera is None) != (saved.camera is None):
        before, now = ("estimated", "given") if saved.camera else ("given", "estimated")
        raise ValueError(
            f"--load-state: the poses before it were {before}, and those of this video are {now}; "
            "give poses to both runs, or to neither"
        )
