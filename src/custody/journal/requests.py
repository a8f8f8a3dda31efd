"""What one process leaves for another: requests to end a call or a run, and commands that may run once.

Owns the folders `journal/cancel` (an empty file named after the id: the request itself is on the record, the
file only wakes the process concerned, which looks here while its calls run) and `journal/adopt` (a digest,
named after the call whose command it is).
"""

from custody.journal.disk import Disk

FOLDER = "journal/cancel"
ADOPT_FOLDER = "journal/adopt"


class CancelRequests:
    """Posted by whoever cancels, taken by the process that runs the call. Every method may wait."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def post(self, target_id: bytes) -> None:
        self._disk.make_folder(FOLDER)
        self._disk.replace(f"{FOLDER}/{target_id.hex()}", b"")

    def pending(self) -> set[bytes]:
        """Ids somebody wants ended."""
        pending: set[bytes] = set()
        for name in self._disk.names(FOLDER):
            try:
                pending.add(bytes.fromhex(name))
            except ValueError:
                continue  # a temporary file on its way to its name
        return pending

    def clear(self, target_id: bytes) -> None:
        """Forget a request that was met or has nobody to meet it."""
        try:
            self._disk.remove(f"{FOLDER}/{target_id.hex()}")
        except FileNotFoundError:
            pass  # another process of the same run was quicker


class Adoptions:
    """Commands that were decided on in one process and may be run in another: each once. Every method may
    wait."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def offer(self, call_id: bytes, digest: bytes) -> None:
        """The command with that digest may run as this call's. Raises OSError."""
        self._disk.make_folder(ADOPT_FOLDER)
        self._disk.replace(f"{ADOPT_FOLDER}/{call_id.hex()}", digest)

    def offered(self, call_id: bytes) -> bytes | None:
        """The digest of the command that may run; None where none may, or none may any more."""
        return self._disk.read_all(f"{ADOPT_FOLDER}/{call_id.hex()}")

    def take(self, call_id: bytes) -> bool:
        """Whether it was still to be had: of many who ask exactly one hears yes."""
        try:
            self._disk.remove(f"{ADOPT_FOLDER}/{call_id.hex()}")
        except FileNotFoundError:
            return False
        return True
