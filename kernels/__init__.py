if __name__ != "tttvideo.kernels":
    raise ImportError(f"this folder is the package tttvideo.kernels; {__name__!r} is not its name")

from .ops import ttt_linear, ttt_mlp
from .state import State


__all__ = ["State", "ttt_linear", "ttt_mlp"]
