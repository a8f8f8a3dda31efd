"""The breaker refuses at its limits, and allows again only below them."""

import pytest

from custody.errors import InvalidSetting
from custody.host import Breaker, BreakerThresholds, HostSample, ProcessSummary

GIB = 1024**3


def sample(**readings: float | None) -> HostSample:
    zombies = readings.pop("zombies", None)
    processes = None
    if zombies is not None:
        processes = ProcessSummary(count=100, zombies=int(zombies), top_cpu=None, top_memory=None)
    return HostSample(sampled_at_us=1, processes=processes, **readings)  # pyright: ignore[reportArgumentType]


def test_an_easy_machine_refuses_nothing() -> None:
    easy = sample(
        memory_used_percent=50,
        pressure_cpu_some_percent=5,
        disk_free_percent=50,
        disk_free_bytes=99 * GIB,
        zombies=0,
    )
    assert Breaker().check(easy) is None
    assert {reading.state for reading in Breaker().readings(easy)} == {"ok"}


def test_what_is_unknown_refuses_nothing() -> None:
    assert Breaker().check(sample()) is None
    assert {reading.state for reading in Breaker().readings(sample())} == {"unknown"}


@pytest.mark.parametrize(
    ("name", "field", "allowed", "refused", "still_refused", "allowed_again"),
    [
        ("memory", "memory_used_percent", 79.9, 80, 70.1, 70),
        ("memory", "cgroup_memory_used_percent", 79.9, 80, 70.1, 70),
        ("cpu_pressure", "pressure_cpu_some_percent", 80, 80.1, 70.1, 70),
        ("cpu_pressure", "cpu_percent", 80, 80.1, 70.1, 70),
        ("disk_free_percent", "disk_free_percent", 5, 4.9, 5.9, 6),
        ("disk_free_bytes", "disk_free_bytes", GIB, GIB - 1, GIB * 5 // 4 - 1, GIB * 5 // 4),
        ("zombies", "zombies", 50, 51, 44, 43),
    ],
)
def test_a_reading_refuses_from_its_limit_until_it_has_resumed(
    name: str, field: str, allowed: float, refused: float, still_refused: float, allowed_again: float
) -> None:
    breaker = Breaker()
    assert breaker.check(sample(**{field: still_refused})) is None
    assert breaker.check(sample(**{field: allowed})) is None
    refusal = breaker.check(sample(**{field: refused}))
    assert refusal is not None
    assert (refusal.reading, refusal.value) == (name, refused)
    assert breaker.check(sample(**{field: still_refused})) is not None
    assert breaker.check(sample(**{field: allowed_again})) is None
    assert breaker.check(sample(**{field: still_refused})) is None


def test_the_refusal_names_reading_value_limit_and_setting() -> None:
    refusal = Breaker().check(sample(memory_used_percent=40, cgroup_memory_used_percent=83.25))
    assert refusal is not None
    assert refusal.message == (
        "The machine is short of resources: memory in use (cgroup): 83.25 %, the limit is 80 %; "
        "calls resume at 70 %. The limit is the setting breaker.memory_percent_max."
    )
    refusal = Breaker().check(sample(disk_free_bytes=GIB // 2))
    assert refusal is not None
    assert "0.50 GiB, the limit is 1.00 GiB; calls resume at 1.25 GiB" in refusal.message
    assert refusal.setting == "breaker.disk_free_bytes_min"


def test_the_tighter_of_machine_and_cgroup_counts() -> None:
    assert Breaker().check(sample(memory_used_percent=85, cgroup_memory_used_percent=10)) is not None
    assert (
        Breaker().readings(sample(memory_used_percent=85, cgroup_memory_used_percent=10))[0].source
        == "machine"
    )


def test_processor_use_counts_only_where_pressure_is_unknown() -> None:
    assert Breaker().check(sample(pressure_cpu_some_percent=5, cpu_percent=100)) is None
    assert Breaker().check(sample(cpu_percent=100)) is not None


def test_a_reading_that_becomes_unknown_refuses_nothing_and_keeps_its_state() -> None:
    breaker = Breaker()
    assert breaker.check(sample(memory_used_percent=90)) is not None
    assert breaker.check(sample()) is None
    assert breaker.check(sample(memory_used_percent=75)) is not None


def test_each_reading_has_a_state_of_its_own() -> None:
    breaker = Breaker()
    assert breaker.check(sample(memory_used_percent=90, zombies=60)) is not None
    refusal = breaker.check(sample(memory_used_percent=10, zombies=45))
    assert refusal is not None
    assert refusal.reading == "zombies"


def test_asking_for_the_readings_changes_nothing() -> None:
    breaker = Breaker()
    breaker.readings(sample(memory_used_percent=90))
    assert breaker.check(sample(memory_used_percent=75)) is None
    breaker.check(sample(memory_used_percent=90))
    breaker.readings(sample(memory_used_percent=10))
    states = {reading.name: reading.state for reading in breaker.readings(sample(memory_used_percent=75))}
    assert states["memory"] == "refusing"


def test_every_threshold_is_a_setting() -> None:
    thresholds = BreakerThresholds(
        memory_percent_max=95, memory_percent_resume=90, zombies_max=0, zombies_resume=0
    )
    breaker = Breaker(thresholds)
    assert breaker.check(sample(memory_used_percent=94, zombies=0)) is None
    refusal = breaker.check(sample(zombies=1))
    assert refusal is not None
    assert refusal.limit == 0


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"memory_percent_max": 60.0}, "breaker.memory_percent_resume"),
        ({"memory_percent_resume": -1.0}, "breaker.memory_percent_resume"),
        ({"cpu_pressure_percent_resume": 81.0}, "breaker.cpu_pressure_percent_resume"),
        ({"disk_free_percent_min": 7.0}, "breaker.disk_free_percent_resume"),
        ({"disk_free_bytes_min": -1}, "breaker.disk_free_bytes_resume"),
        ({"zombies_max": 10}, "breaker.zombies_resume"),
    ],
)
def test_thresholds_that_contradict_each_other_are_refused(settings: dict[str, float], name: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        BreakerThresholds(**settings)  # pyright: ignore[reportArgumentType]
    assert name in caught.value.message
