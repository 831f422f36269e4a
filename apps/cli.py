"""`tttvideo COMMAND`: a thin dispatcher that imports nothing heavy."""

import logging
import sys

from tttvideo.apps.commands import COMMANDS, find, invoke, names


def main(arguments: list[str] | None = None) -> None:
    """Run a command; wrong input ends it with one line on standard error and exit code 1."""
    arguments = sys.argv[1:] if arguments is None else arguments
    logging.basicConfig(format="%(message)s")
    logging.getLogger("tttvideo").setLevel(logging.INFO)  # the chosen backend, and why
    if not arguments or arguments[0] in ("-h", "--help"):
        return print(overview())
    name = ""
    try:
        name, rest = find(arguments)
        if COMMANDS[name][0] is None:
            return print(overview(name)) if rest else sys.exit(overview(name))
        invoke(name, rest)
    except (ValueError, OSError) as error:
        sys.exit(f"{f'tttvideo {name}'.strip()}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def overview(group: str = "") -> str:
    """The commands, or those of a group, with a line each."""
    start = f"{group} " if group else ""
    lines = [f"  {name:<10}{COMMANDS[start + name][1]}" for name in names(group)]
    about = COMMANDS[group][1] if group else "Test-Time Training layers for long text and video"
    return "\n".join(
        [
            f"usage: tttvideo {start}COMMAND ...",
            f"{about[0].upper()}{about[1:]}.",
            "",
            *lines,
            "",
            f"`tttvideo {start}COMMAND --help` explains one.",
            f"example: tttvideo {EXAMPLES[group]}",
        ]
    )


EXAMPLES = {
    "": "demo",
    "prepare": "prepare text books/train --out out/books --validation 0.05",
    "evaluate": "evaluate text out/text_tiny/last.ckpt out/books/validation --out out/evaluation",
}


if __name__ == "__main__":
    main()
