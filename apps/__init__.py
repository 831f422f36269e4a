if __name__ != "tttvideo.apps":
    raise ImportError(f"this folder is the package tttvideo.apps; {__name__!r} is not its name")
