"""The code world: some symbols are shown, others distract, and then the first are shown again.

Symbols in colours are the code, one for each frame. Grey ones follow, which mean nothing. Then the
border turns white for an empty frame, and the code is repeated inside it. Then comes the next code.
"""

import numpy as np

from .cells import GREY, GROUND, LAST, NEVER, WHITE, CellVideo, border, still_video
from .glyphs import SHAPES


def code_video(
    frames: int,
    grid: int,
    rng: np.random.Generator,
    colours: int,
    symbols: int,
    distractors: int,
) -> CellVideo:
    """Codes until the frames are over.

    Arguments:
        frames: F.
        grid: G, at least 8, or symbols look alike.
        rng: draws shapes and colours.
        colours: colours of symbols, whose tokens begin at WHITE + 1.
        symbols: of a code; at least 1.
        distractors: frames of grey symbols after each code.
    Returns: cells, and ages that are the frames since the code was shown where it is repeated.
    """
    cells, ages = video = still_video(frames, grid)
    inside, again = slice(1, grid - 1), symbols + distractors + 1
    for begin in range(0, frames, again + symbols):
        tokens = WHITE + 1 + rng.integers(colours, size=symbols)
        code = [symbol(grid - 2, rng, int(token)) for token in tokens]
        others = [symbol(grid - 2, rng, GREY) for _ in range(distractors)]
        round_ = np.stack([*code, *others, np.full_like(code[0], GROUND), *code])
        new = np.repeat((NEVER, LAST, again), (again - 1, 1, symbols))
        whole = slice(begin, begin + len(round_))
        cells[whole, inside, inside] = round_[: frames - begin]
        ages[whole, inside, inside] = new[: frames - begin, None, None]
        cells[begin + again - 1 : whole.stop, *border(grid)] = WHITE
    ages[:1] = NEVER
    return video


def symbol(side: int, rng: np.random.Generator, token: int) -> np.ndarray:
    """Cells (side, side): a shape in a colour, on the ground."""
    shape = SHAPES[rng.integers(len(SHAPES))]
    along = np.arange(side) - (side - 1) / 2
    return np.where(shape(along, along[:, None], side / 2) < 0, token, GROUND)
