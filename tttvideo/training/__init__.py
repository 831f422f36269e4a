"""The outer loop: the models that `tttvideo fit` trains."""

from .frames import FrameTokenizerModel
from .pixels import PixelModel
from .tokens import TokenModel
from .video import VideoModel


__all__ = ["FrameTokenizerModel", "PixelModel", "TokenModel", "VideoModel"]
