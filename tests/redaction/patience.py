"""How long may be searched where that is not what a test is about: on a slow machine the same is found."""

PATIENT_MS = 60_000.0
"""Of the thread's own time, for one record."""
