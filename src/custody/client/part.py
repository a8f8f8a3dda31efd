"""A client's part in a run: what makes it this client's, whatever becomes of the connection.

Owns the key under which the run is begun once however often that is asked, and the ids of what is recorded in
it, which client and daemon derive alike so that nobody has to wait for them. Used by `run` and `outbox`.
"""

import asyncio
import secrets
from collections.abc import Mapping
from typing import Any

from custody.client.link import Link
from custody.client.refusals import refused
from custody.client.wire import Wire
from custody.errors import CustodyError, NotFound, RunClosed
from custody.rpc.errors import RemoteError
from custody.rpc.part_ids import KEY_BYTES, id_of


class Part:
    """What one client has to do with one run. Its coroutines run in the link's thread."""

    def __init__(self, link: Link, method: str, params: Mapping[str, Any]) -> None:
        """`method` is `runs.begin`, `runs.join` or `runs.named`."""
        self.link = link
        self._method = method
        self._params = {**params, "key": secrets.token_hex(KEY_BYTES)}
        self.said: dict[str, Any] = {}
        """What the daemon answered; empty until it has."""
        self.lost: CustodyError | None = None
        """Why nothing more can be recorded in it."""
        self._beginning = asyncio.Lock()
        self.number = 0
        """Of what was last told in it; see `outbox`."""

    @property
    def id(self) -> str:
        """Empty until the daemon has answered."""
        return self.said.get("part", "")

    @property
    def run_id(self) -> bytes:
        """Empty until then, too."""
        return bytes.fromhex(self.said.get("run_id", ""))

    def id_of(self, number: int) -> bytes:
        """Of the call or step that was told as this one; empty until the daemon has answered."""
        return id_of(self.id, number) if self.id else b""

    async def begin(self, *, patient: bool = False) -> None:
        """Once; a patient one waits for as long as the link is open. Raises what the daemon raised, and
        NotRecorded where it cannot be reached."""
        async with self._beginning:
            if self.lost is not None:
                raise self.lost
            if not self.said:
                self.said = await self.link.ask(self._method, self._params, patient=patient, act=True)

    async def again(self, wire: Wire) -> None:
        """The connection is another one: the daemon has kept the run, or has ended it."""
        if not self.said or self.lost is not None:
            return
        try:
            await wire.request("runs.rejoin", {"key": self._params["key"]})
        except RemoteError as error:
            self.lose(refused(error))

    def lose(self, error: CustodyError) -> None:
        """Its daemon has ended the run, or does not know it any more."""
        if self.lost is None and isinstance(error, (RunClosed, NotFound)):
            self.lost = RunClosed(
                "The run was ended while the connection to the daemon was broken; start another.",
                run_id=self.said.get("run_id"),
            )
