"""Spatial blocks of a frame, each with fast weights of its own: folded into heads.

B batch, F frames, P tokens per frame, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass

from einops import rearrange
from torch import Tensor


@dataclass(frozen=True)
class Blocks:
    """A frame of `grid` tokens, cut into `down` times `across` rectangles."""

    grid: tuple[int, int]
    down: int
    across: int

    @staticmethod
    def of(grid: tuple[int, int], count: int) -> Blocks:
        """The cut into `count` blocks that are nearest to squares; ValueError where none exists."""
        rows, columns = grid
        cuts = [
            (down, count // down)
            for down in range(1, count + 1)
            if count % down == 0 and rows % down == 0 and columns % (count // down) == 0
        ]
        if not cuts:
            raise ValueError(
                f"ttt.blocks is {count}, and {rows} x {columns} tokens cannot be cut into {count} "
                "equal rectangles"
            )
        down, across = min(cuts, key=lambda cut: abs(rows / cut[0] - columns / cut[1]))
        return Blocks(grid, down, across)

    def fold(self, x: Tensor) -> Tensor:
        """x (B, F P, H, ...), raster order, as (B, F P / blocks, blocks H, ...).

        Raises ValueError for a part of a frame.
        """
        if x.shape[1] % (self.grid[0] * self.grid[1]):
            raise ValueError(f"{x.shape[1]} tokens are no whole frames of {self.grid}")
        order = "b (f down r across c) h ... -> b (f r c) (down across h) ..."
        return rearrange(x, order, **self.sizes())

    def unfold(self, x: Tensor) -> Tensor:
        """The inverse of `fold`."""
        order = "b (f r c) (down across h) ... -> b (f down r across c) h ..."
        return rearrange(x, order, **self.sizes())

    def sizes(self) -> dict[str, int]:
        rows, columns = self.grid[0] // self.down, self.grid[1] // self.across
        return {"down": self.down, "across": self.across, "r": rows, "c": columns}
