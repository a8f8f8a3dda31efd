"""The command line: `custody` and `python -m custody`.

Owns how a person asks and what they are shown: options, tables, messages, exit codes. Knows nothing of
how a call is run or kept. Nothing is imported here, and each command imports its libraries when it is
chosen, because `custody exec -- true` as a whole has 150 ms.
"""

import os
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command the process was started with, and end the process with its exit code."""
    _open_standard_descriptors()
    from custody.cli.program import run

    sys.exit(run(sys.argv[1:]))


def _open_standard_descriptors() -> None:
    """Put /dev/null where we were started with a closed standard descriptor.

    Else the next file or socket opened would take its number, and what is meant for standard output would
    be written into it.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            taken = os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one
            assert taken == descriptor, "those below are open"
            mode = "r" if descriptor == 0 else "w"
            setattr(sys, name, os.fdopen(descriptor, mode, closefd=False))
