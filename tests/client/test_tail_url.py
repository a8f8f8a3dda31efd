"""`custody tail --url` shows a daemon's records, each once, whatever becomes of the connection."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.calls.faces import wait_until as until
from tests.client.daemon import Daemon

from custody.cli.cursor import read_cursor

pytestmark = pytest.mark.long

WAIT_SECONDS = 60


def seen_in(cursor: Path) -> int:
    """Up to which record of the only shard."""
    found = read_cursor(str(cursor))
    return 0 if found is None or 1 not in found.places else found.places[1][2]


def test_each_record_is_shown_once_though_the_connection_breaks(daemon: Daemon, runtime, tmp_path):
    cursor = tmp_path / "cursor"
    argv = [
        sys.executable,
        "-m",
        "custody",
        "tail",
        "--json",
        "--url",
        daemon.address,
        "--cursor",
        str(cursor),
    ]
    with subprocess.Popen([*argv, "-f"], stdout=subprocess.PIPE, text=True) as tail:
        assert tail.stdout is not None
        with runtime.run("watched") as run:
            for number in range(30):
                with run.observe("search", {"n": number}):
                    pass
                if number % 10 == 5:
                    daemon.drop_connections()
        records = []
        while not records or records[-1]["kind"] != "run_finished":
            records.append(json.loads(tail.stdout.readline()))
        until(lambda: seen_in(cursor) > records[-1]["sequence"], WAIT_SECONDS)
        tail.terminate()
        tail.wait(WAIT_SECONDS)

    places = [(record["shard"], record["sequence"]) for record in records]
    assert len(places) == len(set(places))
    kinds = [record["kind"] for record in records]
    assert kinds.count("call_started") == kinds.count("call_finished") == 30

    runtime.call("exec", {"argv": ["true"]})
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, timeout=WAIT_SECONDS, check=True)
    later = [json.loads(line) for line in done.stdout.splitlines()]
    assert later and not {(record["shard"], record["sequence"]) for record in later} & set(places)
