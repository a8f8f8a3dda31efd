"""Fixtures of the tests of `sandbox`."""

import secrets

import pytest


@pytest.fixture(params=[True, False], ids=["cgroup", "no cgroup"])
def cgroups(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture
def token() -> str:
    """Another for each test: tests run at the same time, and see each other's processes."""
    return secrets.token_hex(8)
