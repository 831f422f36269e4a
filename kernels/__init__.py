if __name__ != "tttvideo.kernels":
    raise ImportError(f"this folder is the package tttvideo.kernels; {__name__!r} is not its name")

from .ops import ttt_decode_, ttt_linear, ttt_mlp
from .slots import Slots
from .state import State


__all__ = ["Slots", "State", "ttt_decode_", "ttt_linear", "ttt_mlp"]
