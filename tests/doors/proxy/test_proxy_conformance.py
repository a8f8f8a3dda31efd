"""The official conformance suite, which serves what a client is to do: the official client passes the same
checks through `custody proxy` as without it. What is about authorization is left out: the proxy sends the
headers it is given, and negotiates nothing.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.doors.mcp_clients import Home
from tests.doors.proxy.proxied import SOURCE
from tests.doors.test_mcp_conformance import SUITE

CLIENT = Path(__file__).parent / "conformance_client.py"
SECONDS_MAX = 120
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
    worst: dict[str, str] = {}
    for check in json.loads(found.read_text()):
        if worst.get(check["id"]) != "FAILURE":
            worst[check["id"]] = check["status"]
    return worst


@pytest.mark.parametrize(
    ("version", "scenario"), [(version, one) for version, some in SCENARIOS.items() for one in some]
)
def test_the_same_checks_pass_through_the_proxy(tmp_path: Path, version: str, scenario: str):
    direct = checks(Home(tmp_path / "direct"), scenario, version, through_proxy=False)
    through = checks(Home(tmp_path / "through"), scenario, version, through_proxy=True)
    assert direct, "it was run"
    assert through == direct
