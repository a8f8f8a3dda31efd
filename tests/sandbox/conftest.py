"""Fixtures of the tests of `sandbox`."""

import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.sandbox.places import ORDINARY_UID, SYSTEM_PYTHON, WHO_ELSE, Place


@pytest.fixture(params=[True, False], ids=["cgroup", "no cgroup"])
def cgroups(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture
def token() -> str:
    """Another for each test: tests run at the same time, and see each other's processes."""
    return secrets.token_hex(8)


@pytest.fixture(params=["root", WHO_ELSE])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """Not below tmp_path, into which only its owner can go."""
    ordinary = request.param == "ordinary user"
    if not ordinary and os.getuid() != 0:
        pytest.skip("not started as root")
    if ordinary and os.getuid() == 0 and not os.access(SYSTEM_PYTHON, os.X_OK):
        pytest.skip("no interpreter that an ordinary user can execute")
    with tempfile.TemporaryDirectory(prefix="custody-walls-") as folder:
        yield Place(Path(folder), ORDINARY_UID if ordinary and os.getuid() == 0 else os.getuid())
