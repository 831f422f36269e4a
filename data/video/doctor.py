"""A surveyed video in words: what it is, what is read of it, what is wrong and how to repair it."""

import shlex

from .sources import counted
from .survey import Survey
from .writer import writable


EVERY = "-fps_mode passthrough "  # no frame is repeated or dropped
ENCODE = "-c:v libx264 -crf 12 -an NEW.mp4"
NOTES = {
    "interlaced": "a frame is woven of two fields half a frame apart: what moves has combs",
    "mirrored": "the file asks for a mirrored picture, and gets it",
    "edit list": "an edit list hides frames, as after a cut without encoding: no player shows "
    "them, and they are not read",
    "no time stamps": "frames have no time stamps of their own: their times come from the rate",
    "several streams": "there are several video streams: the best is read",
    "variable rate": "frames do not come at a constant rate: their times are those of the file",
    "numbers skip": "the numbers of the pictures skip some: pictures may be missing",
}


def explain(survey: Survey) -> str:
    """The lines of an explanation."""
    lines = [f"{survey.source.name}: {what(survey)}"]
    if survey.status == "ok":
        lines += [f"read: {what_is_read(survey)}", f"reader: {why_the_reader(survey)}"]
    else:
        lines.append(f"{survey.status}: {survey.reason}")
    lines += [f"note: {NOTES[flag]}" for flag in survey.flags]
    lines += [f"note: {note}" for note in survey.notes]
    if survey.repeats:
        lines.append(
            f"note: {counted(survey.repeats, 'frame')} look like the one before: a still scene, or "
            "repeated by the program that wrote the file"
        )
    return "\n".join([*lines, *remedies(survey)])


def what(survey: Survey) -> str:
    if not survey.codec:
        return "not known, because it cannot be opened"
    rate = f"{survey.fps:.4g} frames per second" if survey.fps else "no declared rate"
    turn = f", turned by {survey.rotation} degrees" if survey.rotation else ""
    size = f"{survey.width}x{survey.height}{turn}"
    return f"{survey.codec} in {survey.container}, {size}, {rate}"


def what_is_read(survey: Survey) -> str:
    return f"{counted(survey.frames, 'frame')}, {survey.seconds:.2f} s, all that can be shown"


def why_the_reader(survey: Survey) -> str:
    slower = ", which is as exact as decord" if survey.reader == "pyav" else ""
    return f"{survey.reader}{slower}; {survey.reader_reason}"


def remedies(survey: Survey) -> list[str]:
    """Lines of ffmpeg that make another file, each after what it is for."""
    if survey.given_fps or survey.codec == "webp":
        return []  # no video files
    file = f"-i {shlex.quote(survey.path)}"
    if survey.status != "ok":
        opens = survey.codec or survey.status != "bad" or "upright" in survey.reason
        keep = f"ffmpeg -err_detect ignore_err {file} {EVERY}{ENCODE}"
        return [f"to keep what decodes (look at it before you use it): {keep}"] if opens else []
    found, fps = [], survey.fps or 25.0
    if not writable(fps):
        found.append(f"to show 25 frames per second: ffmpeg -r 25 {file} {ENCODE}")
    elif "variable rate" in survey.flags:
        found.append(f"for a constant rate: ffmpeg {file} -vf fps={fps:.6g} {ENCODE}")
    if "interlaced" in survey.flags:
        found.append(f"without combs: ffmpeg {file} -vf bwdif=send_frame {EVERY}{ENCODE}")
    return found
