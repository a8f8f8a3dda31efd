"""Which users root's commands behind walls may run as.

Owns the usual range and what makes a range unusable. Reads the machine's own lists alone. Used by `machine`
and, for the numbers by themselves, by the settings.
"""

from collections.abc import Iterator

UIDS = (70_000, 10_000)
"""First and count: above all that systems give to people and services, below what they give to containers."""

OVERFLOW_UIDS = (65_534, 65_535)
"""What the kernel shows for owners it cannot name: files of others would look like ours, or be it."""

UID_MIN = 1000  # below are root and the services
UID_LIMIT = 2**31  # programs that keep the number in an int read what is above as negative


def not_users(uids: tuple[int, int]) -> str | None:
    """Why these numbers are none to run commands as, on any machine."""
    first, count = uids
    numbers = range(first, first + count)
    if count < 1 or first < UID_MIN or numbers.stop > UID_LIMIT or any(n in numbers for n in OVERFLOW_UIDS):
        return (
            f"the range has to lie from {UID_MIN} on, without the numbers the kernel gives to unknown owners"
        )
    return None


def unusable(uids: tuple[int, int]) -> str | None:
    """Why commands may not run as these users here."""
    why = not_users(uids)
    if why is not None:
        return why
    first, count = uids
    for given, many in _given_uids():
        if given < first + count and first < given + many:
            return "a user of this machine, or his containers, have a number of that range"
    return None


def _given_uids() -> Iterator[tuple[int, int]]:
    """First and count of what the machine's own lists give away; to ask a directory could take minutes."""
    for path, first, count in (("/etc/passwd", 2, None), ("/etc/subuid", 1, 2)):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                lines = [line.rstrip("\n").split(":") for line in file]
        except OSError:
            continue
        for fields in lines:
            try:
                yield int(fields[first]), 1 if count is None else int(fields[count])
            except (IndexError, ValueError):  # a comment, or a name: neither gives a number away
                continue
