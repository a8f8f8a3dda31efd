"""What every test starts from: no store or setting of whoever runs them, and the same examples each time."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from tests.settings_for_tests import never_short_of_resources

settings.register_profile(
    "repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)
settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def _nobodys_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("CUSTODY_")]:
            patch.delenv(name)
        patch.setenv("XDG_DATA_HOME", str(home / "data"))
        patch.setenv("XDG_CONFIG_HOME", str(home / "config"))
        never_short_of_resources(home / "config")
        patch.setenv("NO_COLOR", "1")
        patch.setenv("COLUMNS", "120")
        yield
