"""The outer loop: what `tttvideo fit` trains."""

from .tokens import FrameTokenizerModel, TokenModel


__all__ = ["FrameTokenizerModel", "TokenModel"]
