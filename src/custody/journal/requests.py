"""Requests to end a call or a run, left for the process that runs it.

Owns the folder `journal/cancel`: an empty file named after the id. The request itself is on the record as
an event; the file only wakes the process concerned, which looks here while its calls run.
"""

from custody.journal.disk import Disk

FOLDER = "journal/cancel"


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
