"""The official conformance suite, which serves what a client is to do: the official client passes the same
checks through `custody proxy` as without it, and so does a server of the official SDK, both times behind the
same front of HTTP. What is about authorization is left out: the proxy sends the headers it is given, and
negotiates nothing.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.doors.mcp_clients import Home
from tests.doors.proxy.proxied import SOURCE
from tests.doors.test_mcp_conformance import SUITE

FOLDER = Path(__file__).parent
CLIENT = FOLDER / "conformance_client.py"
SERVER = [sys.executable, str(FOLDER / "reference_server.py")]
FRONT = [sys.executable, str(FOLDER / "http_front.py")]
PASSED_MIN = {"2026-07-28": 40, "2025-11-25": 55}
"""Checks that the server passes: it is worth comparing."""
SECONDS_MAX = 120
WHEN = re.compile(r"-\d{4}-\d\d-\d\dT.*$")
"""When it was run, at the end of a folder's name."""
SCENARIOS = {
    "2026-07-28": [
        "tools_call", "request-metadata", "sep-2322-client-request-state", "http-standard-headers",
        "http-custom-headers", "http-invalid-tool-headers", "json-schema-ref-no-deref",
        "json-schema-2020-12-preservation",
    ],
    "2025-11-25": [
        "initialize", "tools_call", "elicitation-sep1034-client-defaults", "sse-retry",
        "json-schema-2020-12-preservation",
    ],
}  # fmt: skip

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        not (SUITE / ".bin" / "conformance").exists(),
        reason="the conformance suite is not installed: `make test-long` does so where there is npm",
    ),
]


def checks(home: Home, scenario: str, version: str, *, through_proxy: bool) -> dict[str, str]:
    """Each check of a scenario, and what became of it; the worst where it was looked at more than once."""
    out = home.folder / "out"
    variables = {"THROUGH_PROXY": "1"} if through_proxy else {}
    subprocess.run(
        [
            str(SUITE / ".bin" / "node"), str(SUITE / ".bin" / "conformance"), "client",
            "--command", f"{sys.executable} {CLIENT}", "--scenario", scenario, "--spec-version", version,
            "--timeout", str(SECONDS_MAX * 1000), "--output-dir", str(out),
        ],
        capture_output=True, timeout=2 * SECONDS_MAX, check=False,
        env={**home.environment, **variables, "PATH": os.environ["PATH"], "PYTHONPATH": SOURCE},
    )  # fmt: skip
    (found,) = out.rglob("checks.json")
    return worst_of([found])


def worst_of(found: Iterable[Path]) -> dict[str, str]:
    """By scenario and check, what became of it."""
    worst: dict[str, str] = {}
    for file in found:
        scenario = WHEN.sub("", file.parent.name)
        for check in json.loads(file.read_text()):
            name = f"{scenario}: {check['id']}"
            if worst.get(name) != "FAILURE":
                worst[name] = check["status"]
    return worst


@pytest.mark.parametrize(
    ("version", "scenario"), [(version, one) for version, some in SCENARIOS.items() for one in some]
)
def test_the_same_checks_pass_through_the_proxy(tmp_path: Path, version: str, scenario: str):
    direct = checks(Home(tmp_path / "direct"), scenario, version, through_proxy=False)
    through = checks(Home(tmp_path / "through"), scenario, version, through_proxy=True)
    assert direct, "it was run"
    assert through == direct


def served(folder: Path, version: str, command: list[str]) -> dict[str, str]:
    """The checks of the whole suite for servers, of one that is a command."""
    home = Home(folder)
    environment = {**home.environment, "PATH": os.environ["PATH"], "PYTHONPATH": SOURCE}
    front = subprocess.Popen(
        [*FRONT, *command], stdout=subprocess.PIPE, text=True, env=environment, cwd=home.work
    )
    try:
        assert front.stdout is not None
        url = f"http://127.0.0.1:{int(front.stdout.readline())}/mcp"
        subprocess.run(
            [
                str(SUITE / ".bin" / "node"), str(SUITE / ".bin" / "conformance"), "server", "--url", url,
                "--suite", "all", "--spec-version", version, "--output-dir", str(home.folder / "out"),
            ],
            capture_output=True, timeout=4 * SECONDS_MAX, check=False, env=environment,
        )  # fmt: skip
    finally:
        front.terminate()
        front.wait(30)
        assert front.stdout is not None
        front.stdout.close()
    return worst_of((home.folder / "out").rglob("checks.json"))


@pytest.mark.parametrize("version", PASSED_MIN)
def test_a_server_passes_the_same_checks_behind_the_proxy(tmp_path: Path, version: str):
    behind = [sys.executable, "-m", "custody", "proxy", "--name", "reference", "--", *SERVER]
    with ThreadPoolExecutor(2) as threads:
        direct = threads.submit(served, tmp_path / "direct", version, SERVER)
        through = threads.submit(served, tmp_path / "through", version, behind)
    assert through.result() == direct.result()
    assert sum(status == "SUCCESS" for status in direct.result().values()) >= PASSED_MIN[version]
