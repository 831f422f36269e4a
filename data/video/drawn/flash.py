"""The flash world: a colour is seen for one frame, and asked for long after.

The middle of a dark frame flashes in a colour for one frame, once or a few times, while a grey dot
walks around the border. Then the border turns white, and the frame after that shows the colour of
the last flash again. All waits are random. Who reads 30 frames per second has seen the flash; who
reads one per second has seen it once in 30 times, and else guesses among the colours.
"""

import numpy as np

from .cells import GREY, LAST, NEVER, WHITE, CellVideo, border, still_video


FLASHES = 3  # at most, before a question


def flash_video(
    frames: int, grid: int, rng: np.random.Generator, colours: int, wait: int
) -> CellVideo:
    """Flashes, questions and answers until the frames are over.

    Arguments:
        frames: F.
        grid: G, at least 4.
        rng: draws the colours and the waits.
        colours: colours of flashes, whose tokens begin at WHITE + 1.
        wait: the most frames before a flash, and before a question; at least 1.
    Returns: cells, and ages that are the frames since the flash where an answer shows its colour.
    """
    cells, ages = video = still_video(frames, grid)
    edge, middle = border(grid), slice(grid // 4, grid - grid // 4)
    walk = (np.arange(frames) + rng.integers(len(edge[0]))) % len(edge[0])
    frame = 0
    while True:
        for _ in range(rng.integers(1, FLASHES + 1)):
            flash = frame + int(rng.integers(1, wait + 1))
            colour = WHITE + 1 + int(rng.integers(colours))
            cells[flash : flash + 1, middle, middle] = colour
            ages[flash : flash + 1, middle, middle] = NEVER
            frame = flash + 1
        question = frame + int(rng.integers(1, wait + 1))
        if question + 1 >= frames:
            break
        cells[question : question + 2, *edge] = WHITE
        ages[question, *edge] = NEVER
        cells[question + 1, middle, middle] = colour
        ages[question + 1, middle, middle] = question + 1 - flash
        frame = question + 2
    walked = np.arange(frames), edge[0][walk], edge[1][walk]
    cells[walked], ages[walked] = GREY, LAST
    ages[:1] = NEVER
    return video
