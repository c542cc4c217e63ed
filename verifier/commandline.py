"""What the command lines of all commands share: one-line mistakes, guesses at what was meant, and how much is said."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from verifier.result import UsageError


class Parser(argparse.ArgumentParser):
    """argparse, but a wrong command line is a UsageError: one line, like every other mistake. Every command takes `-q`
    and `-v`.
    """

    def __init__(self, **how: Any):
        super().__init__(allow_abbrev=False, **how)

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        """As argparse does; a flag that is none is answered with the nearest there is."""
        loud = self.add_mutually_exclusive_group()  # only now: they stand last in --help
        loud.add_argument("-q", "--quiet", action="store_true", help="the answer, and no progress")
        loud.add_argument(
            "-v", "--verbose", action="store_true", help="more progress; tracebacks of our bugs in a file"
        )
        args = sys.argv[1:] if args is None else list(args)
        flags = args[: args.index("--")] if "--" in args else args
        for flag in (word.partition("=")[0] for word in flags if word.startswith("--")):
            if flag not in self._option_string_actions:  # before anything is said of what else is missing
                self.error(f"unrecognized argument: {flag}{nearest(flag, self._option_string_actions)}")
        return super().parse_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` with the nearest of `known`, or ''."""
    near = difflib.get_close_matches(word, list(known), 1, 0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def refuse_command(word: str, commands: Iterable[str]) -> None:
    """UsageError for a first word that is no file but nearly a command."""
    hint = nearest(word.lower(), commands)
    if hint and not word.startswith("-") and not os.path.exists(word) and not os.path.exists(word + ".gz"):
        raise UsageError(f"{word}: no command and no file{hint}")


def path(word: str) -> str:
    """A file's name on the command line; an empty one, most often a shell's variable that is not set, is none."""
    if not word:
        raise argparse.ArgumentTypeError("expected a file, found an empty argument")
    return word
