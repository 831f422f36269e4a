"""`tttvideo doctor INPUT`: a video explained."""

import argparse

from tttvideo.data.video.doctor import explain
from tttvideo.data.video.sources import counted, printable
from tttvideo.data.video.survey import survey
from tttvideo.progress import progress


def run(options: argparse.Namespace) -> None:
    """Print what is found in the first video of the input.

    Raises: ValueError for a video that cannot be read, after the explanation.
    """
    first, *others = options.videos
    with progress("reading", 1, "videos"):
        (found,) = survey([first], limit=options.limit, workers=1)
    print(printable(explain(found)))
    if others:
        print(f"{counted(len(others), 'more video')} in {options.input}; see `tttvideo index`")
    if found.status != "ok":
        raise ValueError(f"{first.name} cannot be read")
