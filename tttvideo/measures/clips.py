"""How a model of video continues many clips at once, with the controls that expose an empty one.

An empty background is closer to the truth than a copy of the last frame, and a copy keeps every
object. So both measures, the coloured area and the PSNR, stand beside both controls.

N clips, F frames, S pixels of height and width, P tokens per frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tttvideo.progress import progress
from tttvideo.sampling.choose import Choose
from tttvideo.sampling.frame_streams import decode_frames, read_frames
from tttvideo.weights.video_checkpoints import VideoCheckpoint

from .memory import alive
from .video import psnr


@dataclass
class Continued:
    """N clips after their context; images are (N, F, S, S, 3) uint8."""

    last: Tensor
    """(N, S, S, 3) the last frame of the context"""
    truth: Tensor
    prediction: Tensor
    tokenised: Tensor
    """the truth after the frame tokenizer: the best that the model could reach"""

    @property
    def controls(self) -> dict[str, Tensor]:
        """The prediction, and what takes its place: images that broadcast to those of the truth."""
        return {
            "prediction": self.prediction,
            "last frame, repeated": self.last[:, None].expand_as(self.truth),
            "empty background": background(self.truth).expand_as(self.truth),
            "tokenizer alone": self.tokenised,
        }


def background(images: Tensor) -> Tensor:
    """The median over all frames of all clips, which no moving object stays in."""
    return images.flatten(0, 1)[:: max(1, images.shape[0] * images.shape[1] // 500)].median(0)[0]


@torch.inference_mode()
def continue_clips(
    model: VideoCheckpoint, images: Tensor, context: int, choose: Choose, at_once: int = 32
) -> Continued:
    """Read the first `context` frames of clips (N, F, S, S, 3) uint8 and predict the others."""
    horizon = images.shape[1] - context
    predictions, tokenised = [], []
    with progress("predicting", len(images) * horizon, "frames") as advance:
        for clips in images.split(at_once):
            tokens = torch.stack([model.frame_tokenizer.encode(clip) for clip in clips])
            _, prefix = read_frames(model.network, tokens[:, :context], None)
            frames = []
            for frame in decode_frames(model.network, prefix, horizon, choose):
                frames.append(model.frame_tokenizer.decode(frame))
                advance(len(clips))
            predictions.append(torch.stack(frames, dim=1))
            ahead = tokens[:, context:]
            tokenised.append(torch.stack([model.frame_tokenizer.decode(clip) for clip in ahead]))
    truth = images[:, context:]
    return Continued(images[:, context - 1], truth, torch.cat(predictions), torch.cat(tokenised))


def clip_quality(found: Continued, ahead: Sequence[int], first: int = 16) -> dict[str, list[float]]:
    """By prediction and control: mean PSNR of the `first` frames, then the share of clips alive.

    ahead: the numbers of frames, from 1 on, at which clips are counted as alive.
    """
    table = {}
    for name, images in found.controls.items():
        pairs = (x[:, :first].flatten(0, 1).float() / 255 for x in (images, found.truth))
        living = alive(images, found.truth)
        table[name] = [psnr(*pairs).mean().item(), *(living[n - 1].item() for n in ahead)]
    return table
