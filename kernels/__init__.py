if __name__ == "tttvideo.kernels":
    from .ops import ttt_decode_, ttt_linear, ttt_mlp, ttt_norm_free
    from .slots import Slots
    from .state import Packed, State

    __all__ = [
        "Packed",
        "Slots",
        "State",
        "ttt_decode_",
        "ttt_linear",
        "ttt_mlp",
        "ttt_norm_free",
    ]
elif __name__ != "kernels":
    raise ImportError(f"this folder is the package tttvideo.kernels; {__name__!r} is not its name")
# Imported as `kernels` this module is empty and has no version: transformers imports that name from
# the repository's root to ask which version of Hugging Face's package `kernels` is installed.
