if __name__ != "tttvideo.data":
    raise ImportError(f"this folder is the package tttvideo.data; {__name__!r} is not its name")
