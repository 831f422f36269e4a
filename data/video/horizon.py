"""The part of a video that is given and the part to predict, in frames."""

import numpy as np


def split_frames(
    times: np.ndarray, fps: float, context: float | None, horizon: float
) -> tuple[int, int]:
    """The numbers of context frames and of horizon frames.

    times: seconds of every frame, from 0.0, ascending.
    context: seconds of the video that are given; None: all frames before the last `horizon`
        seconds, or all frames where the video is no longer than that.
    horizon: seconds to predict, which may lie beyond the end of the video.
    Raises ValueError where one of the two is less than a frame.
    """
    ahead = horizon_frames(horizon, fps)
    if context is None:
        return (len(times) - ahead if len(times) > ahead else len(times)), ahead
    known = int((times < context).sum())
    if known < 1:
        raise ValueError(f"--context {context} holds no frame; choose a longer one")
    return known, ahead


def horizon_frames(horizon: float, fps: float) -> int:
    """The number of frames in `horizon` seconds; ValueError where that is none."""
    ahead = round(min(horizon, 1e6) * fps)
    if ahead < 1:
        raise ValueError(f"--horizon {horizon} is less than a frame at {fps:g} frames per second")
    return ahead
