"""`tttvideo test ...`: LightningCLI parses the options."""

from .fit import check, parser


__all__ = ["PROGRAM", "check", "parser"]
PROGRAM = "tttvideo.apps.fit:test"
