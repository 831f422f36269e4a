if __name__ == "tttvideo.kernels":
    from .ops import ttt_bare, ttt_decode_, ttt_linear, ttt_mlp
    from .slots import Slots
    from .state import State

    __all__ = ["Slots", "State", "ttt_bare", "ttt_decode_", "ttt_linear", "ttt_mlp"]
elif __name__ != "kernels":
    raise ImportError(f"this folder is the package tttvideo.kernels; {__name__!r} is not its name")
# As `kernels` it is empty and has no version: from the repository's root transformers imports it by
# that name, to ask which version of Hugging Face's package `kernels` there is.
