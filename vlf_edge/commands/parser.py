"""The parser of the command line and of each verb."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

from ..video.sources import hidden


class Parser(argparse.ArgumentParser):
    """Repeats no password of an address that stands where it should not."""

    def parse_known_args(self, args=None, namespace=None):
        self._words = sys.argv[1:] if args is None else list(args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        for word in getattr(self, "_words", ()):
            message = message.replace(word, hidden(word)).replace(repr(word), repr(hidden(word)))
        super().error(message)
