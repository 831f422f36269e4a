"""An index of videos: a line of JSON for each, what a survey found in it.

While it is made, lines are appended to FILE.unfinished; FILE itself appears whole, in the order of
the videos. A line is kept for as long as the size and the time of change of its video,
unless the reading hung or crashed.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from tttvideo.files import lock_beside, locked, write_text
from tttvideo.progress import progress

from .sources import VideoSource, counted
from .survey import Survey, known, survey


SHOWN = 20  # videos that cannot serve, in a summary


def index_videos(
    sources: Sequence[VideoSource], out: Path, limit: float, workers: int | None = None
) -> list[Survey]:
    """Survey videos and write their index; continues an index that was stopped, or grows old.

    limit: seconds until a video's next frame; workers: processes, None: one per core.
    Raises: ValueError for a file at `out` that is no index, and while another run writes it.
    """
    with locked(lock_beside(out)):
        return index_alone(sources, out, limit, workers)


def index_alone(
    sources: Sequence[VideoSource], out: Path, limit: float, workers: int | None
) -> list[Survey]:
    unfinished = out.with_name(f"{out.name}.unfinished")
    lines = [*read_surveys(out), *read_surveys(unfinished, cut=True)]
    old = {line.source.name: line for line in lines}
    found = {name: old[name] for s in sources if (name := s.name) in old and holds(s, old[name])}
    rest = [source for source in sources if source.name not in found]
    write_text(unfinished, json_lines(found.values()))  # without a line that was cut
    with (
        open(unfinished, "a", encoding="utf-8") as log,
        progress("reading videos", len(sources), "videos") as advance,
    ):
        advance(len(found))
        for line in survey(rest, limit=limit, workers=workers):
            log.write(json_lines([line]))
            log.flush()
            found[line.source.name] = line
            advance(1)
    surveys = [found[source.name] for source in sources]
    write_text(out, json_lines(surveys))
    unfinished.unlink()
    return surveys


def holds(source: VideoSource, line: Survey) -> bool:
    """Whether a line is of the video as it is now, and would be found again: what hung or crashed
    may be read with another limit, or with more memory.
    """
    if line.status in ("hang", "crash"):
        return False
    return known(source) == (line.path, line.number, line.given_fps, line.bytes, line.changed)


def json_lines(surveys: Iterable[Survey]) -> str:
    return "".join(json.dumps(asdict(survey)) + "\n" for survey in surveys)


def read_surveys(path: Path, cut: bool = False) -> list[Survey]:
    """The lines of an index; none without a file.

    cut: leave out a last line without an end, as a kill leaves it.
    Raises: ValueError for a file that is no index.
    """
    if not path.exists():
        return []
    try:
        text = path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1] if cut else text
        return [Survey(**json.loads(line)) for line in whole.splitlines()]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is no index of videos; remove it, or name another") from error


def summary(surveys: Sequence[Survey]) -> str:
    """An index in a few lines: how many of each kind, hours, frames, and all that cannot serve."""
    good = [survey for survey in surveys if survey.status == "ok"]
    status = Counter(survey.status for survey in surveys)
    frames, hours = sum(s.frames for s in good), sum(s.seconds for s in good) / 3600
    lines = [
        f"{counted(len(surveys), 'video')}: {tally(status)}",
        f"{counted(frames, 'frame')}, {hours:,.2f} hours",
    ]
    for name, counts in {
        "codec": Counter(f"{s.codec} in {s.container}" for s in good),
        "size": Counter(f"{s.width}x{s.height}" for s in good),
        "rate": Counter(f"{s.fps or 0:.4g}" for s in good),
        "read by": Counter(str(s.reader) for s in good),
        "special": Counter(flag for s in good for flag in s.flags),
    }.items():
        if counts:
            lines.append(f"{name}: {tally(counts)}")
    if copies := len(good) - len({(s.sha256, s.number) for s in good}):
        lines.append(f"with the content of another: {copies}")
    bad = [survey for survey in surveys if survey.status != "ok"]
    lines += [f"{survey.status}: {survey.reason}" for survey in bad[:SHOWN]]
    if len(bad) > SHOWN:
        lines.append(f"... and {len(bad) - SHOWN:,} more")
    return "\n".join(lines)


def tally(counts: Counter[str], most: int = 6) -> str:
    """`h264 in mov 12, vp9 in matroska 3`; the most frequent."""
    shown = [f"{name} {count:,}" for name, count in counts.most_common(most)]
    rest = len(counts) - len(shown)
    return ", ".join([*shown, *([f"{rest} others"] if rest else [])])
