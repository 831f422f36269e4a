"""A video that is played for as long as a measurement needs: forward, backward, forward.

What is known of a frame stays with it. An action leads from a frame to the next and to no other, so
a video with actions is repeated from its start instead, with a jump at every repetition.

F frames of the video, n frames played, P tokens per frame.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tttvideo.video.conditions import Conditions


@dataclass(frozen=True)
class PlayedVideo:
    """Frames (F, P) of tokens, and the conditions of these frames as a batch of one."""

    tokens: Tensor
    known: Conditions

    @property
    def mirrored(self) -> bool:
        return self.known.actions is None

    def places(self, begin: int, end: int) -> Tensor:
        """The frames of the video (n,) that are played as frames `begin` to `end` - 1."""
        F, played = len(self.tokens), torch.arange(begin, end)
        if not self.mirrored:
            return played % F
        turn = max(1, 2 * F - 2)
        place = played % turn
        return place.where(place < F, turn - place)

    def read(self, begin: int, end: int) -> tuple[Tensor, Conditions]:
        """Frames `begin` to `end` - 1 as they are played, (1, n, P), and what is known of them."""
        places, known = self.places(begin, end + 1), self.known
        now, both = places[:-1], torch.minimum(places[:-1], places[1:])

        def rows(x: Tensor | None, index: Tensor) -> Tensor | None:
            return None if x is None else x[:, index]

        found = Conditions(
            rows(known.actions, now),
            rows(known.poses, places),
            known.classes,
            rows(known.seconds, both),  # between two frames it is the same both ways
        )
        return self.tokens[now].long()[None], found
