"""The command line: `custody` and `python -m custody`.

Owns how a person asks and what they are shown: options, tables, messages, exit codes. Knows nothing of
how a call is run or kept. Nothing is imported here, and each command imports its libraries when it is
chosen, because `custody exec -- true` as a whole has 150 ms.
"""

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command the process was started with, and end the process with its exit code."""
    from custody.cli.program import run

    sys.exit(run(sys.argv[1:]))
