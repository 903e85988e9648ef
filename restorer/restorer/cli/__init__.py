"""Words for people: the `restorer` command."""

from __future__ import annotations

import signal
import sys

from .main import main as command

__all__ = ["main"]


def main() -> int:
    """The whole of this process. -> exit code. Its last moments are not disturbed by signals any more."""
    code = command()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    return code


if __name__ == "__main__":
    sys.exit(main())
