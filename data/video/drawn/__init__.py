"""Drawn videos whose truth is known exactly, each a pure function of its seed."""

from .folders import claim_folder, draw_videos, empty_background, missing_videos
from .glyphs import bouncing_glyphs
from .worlds import WORLDS, DrawnVideo, World


__all__ = [
    "WORLDS",
    "DrawnVideo",
    "World",
    "bouncing_glyphs",
    "claim_folder",
    "draw_videos",
    "empty_background",
    "missing_videos",
]
