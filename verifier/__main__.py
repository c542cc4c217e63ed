"""`python -m verifier`, which is the command `verify`."""

import signal
import sys


def main() -> int:
    """The command; Ctrl-C while its modules are still being loaded ends it without a traceback."""
    before = signal.getsignal(signal.SIGINT)
    if before == signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from verifier.cli import main as command

    signal.signal(signal.SIGINT, before)
    return command()


if __name__ == "__main__":
    sys.exit(main())
