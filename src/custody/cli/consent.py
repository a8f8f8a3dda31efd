"""Asking a person before something is done.

Owns when there is somebody to be asked, and what counts as a yes. Used by `undo`, `purge` and `skills`.
"""

import os
import sys

from custody.cli.invocation import message, printable

DECLINED_EXIT_CODE = 1  # as a call that was cancelled


def somebody_is_there() -> bool:
    """Whether somebody is there to be asked, and sees what they are asked."""
    return all(os.isatty(descriptor) for descriptor in (0, 1, 2))


def says_yes(question: str, otherwise: str) -> bool:
    """Ask; whatever is no clear yes is a no, and then `otherwise` is said."""
    sys.stdout.flush()
    try:
        sys.stderr.write(f"{printable(question, keep='')} [y/N] ")
        sys.stderr.flush()
        answer = sys.stdin.readline()
    except KeyboardInterrupt:
        _say_on_a_line_of_its_own(otherwise)
        raise
    if answer.strip().lower() in ("y", "yes"):
        return True
    if answer.endswith("\n"):
        message(otherwise)
    else:
        _say_on_a_line_of_its_own(otherwise)
    return False


def _say_on_a_line_of_its_own(text: str) -> None:
    """Whoever leaves a question has not ended its line."""
    sys.stderr.write("\n")
    message(text)
