"""Videos as batches of tokens, in their order: of token files, or of video files by a codec.

B videos side by side, F frames, P tokens per frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import torch

from tttvideo.data.tokens import Tokens, is_token_data, open_tokens
from tttvideo.progress import progress
from tttvideo.sampling.frame_coder import TokenBatch
from tttvideo.sampling.given_conditions import GivenConditions, check_fits, conditions_read
from tttvideo.states import tree_map
from tttvideo.video.conditions import Conditions
from tttvideo.weights.video_checkpoints import VideoCheckpoint

from .frame_conditions import model_config
from .video_data import VideoBatch, encode, open_videos


AT_ONCE = 16  # videos of a batch


def token_batches(data: str | Path, model: VideoCheckpoint) -> list[TokenBatch]:
    """All videos of a token file, or of a video file, folder or glob, with what the model reads.

    Neighbours of equal length are a batch. Raises ValueError for tokens of another codec, and
    where a condition is missing that the model needs.
    """
    if is_token_data(data):
        return list(batches_of_tokens(open_tokens(data), model))
    return list(batches_of_videos(data, model))


def groups(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Numbers of neighbours of equal length, at most AT_ONCE together."""
    for _, same in groupby(range(len(lengths)), key=lambda n: lengths[n]):
        alike = list(same)
        yield from (alike[begin : begin + AT_ONCE] for begin in range(0, len(alike), AT_ONCE))


def batches_of_tokens(file: Tokens, model: VideoCheckpoint) -> Iterator[TokenBatch]:
    if file.header.tokenizer != model.tokenizer:
        raise ValueError(
            f"{file.path} has tokens of {file.header.tokenizer}, and the model reads those of the "
            f"frame tokenizer {model.tokenizer}: prepare the video with that one"
        )
    P, ends = file.header.frame, [*file.starts[1:].tolist(), len(file.tokens)]
    spans = [range(a // P, b // P) for a, b in zip(file.starts.tolist(), ends, strict=True)]
    for group in groups([len(span) for span in spans]):
        videos = [spans[number] for number in group]
        tokens = [file.tokens[span.start * P : span.stop * P] for span in videos]
        frames = torch.from_numpy(np.stack(tokens).astype(np.int64)).unflatten(1, (-1, P))
        known = [given(file, span, model).read(len(span)) for span in videos]
        yield TokenBatch(frames, tree_map(lambda *x: torch.cat(x), *known))


def given(file: Tokens, span: range, model: VideoCheckpoint) -> GivenConditions:
    """The conditions that the model reads of one video."""
    config, rows = model_config(model.network), {}
    for name, is_needed in conditions_read(config).items():
        if name in file.conditions:
            rows[name] = np.asarray(file.conditions[name][span.start : span.stop])
            if name != "seconds":
                check_fits(config, name, rows[name], file.path)
        elif is_needed:
            raise ValueError(f"the model reads {name}, and {file.path} has none; prepare it again")
    return GivenConditions(rows)


def batches_of_videos(data: str | Path, model: VideoCheckpoint) -> Iterator[TokenBatch]:
    videos = open_videos(data, model.frame_tokenizer.config.size)
    total = sum(video.frames for video in videos)
    with progress("reading videos", total, "frames") as advance:
        for group in groups([video.frames for video in videos]):
            frames, known = [], []
            for piece in VideoBatch([videos[n] for n in group], model.network).pieces():
                frames.append(encode(model.frame_tokenizer, piece.images).cpu())
                known.append(piece.conditions)
                advance(frames[-1].shape[0] * frames[-1].shape[1])
            yield TokenBatch(torch.cat(frames, dim=1), Conditions.join(known))
