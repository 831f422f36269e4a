"""`tttvideo index INPUT...`: what each video is, a line of JSON each."""

import argparse
from pathlib import Path

from tttvideo.data.video.index_file import index_videos, summary
from tttvideo.data.video.sources import counted, printable


def run(options: argparse.Namespace) -> None:
    """Write the index and print a summary.

    Raises: ValueError if no video can be read, or more than --max-bad cannot.
    """
    print(printable(options.found.sentence))
    out = Path(options.out)
    surveys = index_videos(options.found.videos, out, options.limit, options.workers)
    print(printable(summary(surveys)))
    print(f"see {out}")
    bad = sum(survey.status != "ok" for survey in surveys)
    if bad == len(surveys):
        raise ValueError(f"none of the {bad} videos can be read; {out} has the reasons")
    if options.max_bad is not None and bad > options.max_bad:
        raise ValueError(
            f"{counted(bad, 'video')} cannot be read, more than --max-bad {options.max_bad}; "
            f"{out} has the reasons"
        )
