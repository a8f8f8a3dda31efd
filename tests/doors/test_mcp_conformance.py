"""The official conformance suite of MCP against a real daemon, in the newest version and in the last one with
sessions. What is expected to fail stands in `conformance/exceptions-*.yaml`, each with its reason; what
passes although it is listed there fails the run as well.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.doors.daemons import Daemon, daemon, held_address

SUITE = Path(sys.prefix) / "conformance" / "node_modules"
FOLDER = Path(__file__).parent / "conformance"
TOOLS = "diagnostic_tools"
SECONDS_MAX = 240

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        not (SUITE / ".bin" / "conformance").exists(),
        reason="the conformance suite is not installed: `make test-long` does so where there is npm",
    ),
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon that a page of its own address may reach, as the suite wants to see."""
    folder = tmp_path_factory.mktemp("conformance")
    (folder / "work").mkdir()
    shutil.copy(FOLDER / f"{TOOLS}.py", folder / "work")
    settings = f'[tools]\nmodules = ["{TOOLS}"]\n'
    with held_address() as address:
        options = ("--no-auth", "--allow-origin", f"http://{address}")
        with daemon(folder, *options, settings=settings, listen=address) as served:
            yield served


@pytest.mark.parametrize("version", ["2026-07-28", "2025-11-25"])
def test_the_conformance_suite_passes_but_for_what_is_listed(served: Daemon, tmp_path: Path, version: str):
    binaries = SUITE / ".bin"
    done = subprocess.run(
        [
            str(binaries / "node"), str(binaries / "conformance"), "server",
            "--url", f"http://{served.address}/mcp",
            "--suite", "all",
            "--spec-version", version,
            "--expected-failures", str(FOLDER / f"exceptions-{version}.yaml"),
            "--output-dir", str(tmp_path),
        ],
        capture_output=True, text=True, timeout=SECONDS_MAX,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
    )  # fmt: skip
    said = done.stdout.partition("=== SUMMARY ===")[2] or done.stdout[-4_000:]
    assert done.returncode == 0, f"{said}\n{done.stderr[-2_000:]}"
    assert "✓ tools-list" in said  # it was run
    served.is_intact()
