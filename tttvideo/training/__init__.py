"""The outer loop: the models that `tttvideo fit` trains."""

from .frames import FrameTokenizerModel
from .tokens import TokenModel


__all__ = ["FrameTokenizerModel", "TokenModel"]
