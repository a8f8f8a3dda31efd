"""A disk that is full while the daemon serves: nothing runs unrecorded, and what is there can be read."""

import asyncio
import json
from typing import Any

import httpx
import pytest
import websockets
from tests.conftest import Mounted
from tests.doors.serving import serving
from tests.doors.test_websocket import ask
from tests.rpc.clients import opened_runtime

from custody.cli.daemon import is_writable
from custody.journal import RealDisk

MIB = 1024**2


@pytest.mark.long
def test_on_a_full_disk_nothing_runs_and_everything_recorded_can_be_read(mounted: Mounted):
    place = mounted("tmpfs", "size=24m,mode=700")
    store = str(place / "store")
    filler = place / "filler"

    async def main() -> None:
        async with opened_runtime(store) as runtime:
            disk = RealDisk(store)
            async with (
                serving(runtime, writable=lambda: is_writable(store, disk)) as served,
                httpx.AsyncClient(base_url=served.url, timeout=20) as client,
                websockets.connect(served.address) as connection,
            ):
                await ask(connection, "session.auth", {"token": "", "agent_id": "ada"})
                await ask(connection, "tools.register", [{"name": "echo"}])
                ran = [0]
                first = await submit(connection, ran)
                assert (first["results"][0]["status"], ran) == ("succeeded", [1])
                assert (await client.get("/ready")).status_code == 200
                fill(filler)
                assert (await client.get("/ready")).status_code == 503
                answers = [await submit(connection, ran, text="x" * 12_000) for _ in range(200)]
                refused = [answer for answer in answers if "error" in answer]
                done = [answer for answer in answers if "error" not in answer]
                succeeded = [each for each in done if each["results"][0]["status"] == "succeeded"]
                assert refused or len(succeeded) < len(answers), "the disk was not full"
                assert ran[0] >= 1 + len(succeeded), "nothing succeeded that did not run"
                health = await client.get("/health")
                assert health.status_code == 200
                listed = (await client.get("/calls?limit=1000&tool=echo&agent=ada")).status_code
                assert listed == 200
                filler.unlink()
                assert (await client.get("/ready")).status_code == 200
                last = await submit(connection, ran)
                assert last["results"][0]["status"] == "succeeded"
            outcomes = [call.outcome for call in runtime.index.calls(tool="echo", limit=1000).items]
            assert None not in outcomes

    asyncio.run(main())


def fill(path: Any) -> None:
    with path.open("wb") as file:
        try:
            while True:
                file.write(b"\0" * MIB)
                file.flush()
        except OSError:
            pass


async def submit(connection: websockets.ClientConnection, ran: list[int], text: str = "") -> Any:
    """Propose one call of `echo` and answer its callback, should it come."""
    action = {"type": "tool_call", "tool": "echo", "parameters": {"text": text}}
    frame = {
        "jsonrpc": "2.0",
        "id": 7,
        "method": "proposal.submit",
        "params": {"proposal": {"actions": [action]}},
    }
    await connection.send(json.dumps(frame))
    while True:
        told = json.loads(await connection.recv())
        if told.get("method") == "tools.execute":
            ran[0] += 1
            await connection.send(json.dumps({"jsonrpc": "2.0", "id": told["id"], "result": "ok"}))
        elif told.get("id") == 7:
            return told.get("result", told)
