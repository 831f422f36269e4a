"""`tttvideo bench WHAT`: the options."""

from tttvideo.apps.bench import check, parser


__all__ = ["PROGRAM", "check", "parser"]
PROGRAM = "tttvideo.apps.bench:run"
