"""Bounds of the product that a busy machine would meet, where tests are about what is within them."""

import pytest

from custody.tools.watching import listing, settling, watch

PATIENT_SECONDS = 300.0


@pytest.fixture(autouse=True)
def _all_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command changed is told within a second or two, or not; a machine may be busy for longer."""
    for bound in ("cpu_seconds", "wall_seconds"):
        monkeypatch.setitem(listing.list_folders.__kwdefaults__, bound, PATIENT_SECONDS)
    monkeypatch.setattr(settling, "READ_SECONDS_MAX", PATIENT_SECONDS)
    for bound in ("BEGIN_WAIT_SECONDS", "FINISH_WAIT_SECONDS"):
        monkeypatch.setattr(watch, bound, PATIENT_SECONDS)
