"""The outer loop: the models that `tttvideo fit` trains."""

from .frames import FrameTokenizerModel
from .tokens import TokenModel
from .video import VideoModel


__all__ = ["FrameTokenizerModel", "TokenModel", "VideoModel"]
