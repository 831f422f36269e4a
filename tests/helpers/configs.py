"""The real parser of `tttvideo fit`, and the keys that it accepts."""

from argparse import Namespace

from tttvideo.apps.fit import FitCLI


class Parsed(Exception):
    pass


class ParserOnly(FitCLI):
    def parse_arguments(self, parser, args):
        raise Parsed(parser)


def new_parser():
    """LightningCLI's parser, whose arguments begin with fit, validate or test."""
    try:
        ParserOnly(Namespace(command="fit", arguments=[]))
    except Parsed as parsed:
        return parsed.args[0]
