"""Lane 1: the power fails at any operation; what was acknowledged is there, and writing can go on."""

import sys

import pytest
from tests.crash.lanes import PowerLoss
from tests.how_many import todays_seeds


@pytest.mark.parametrize("seed", range(2))
def test_nothing_acknowledged_is_lost_whenever_the_power_fails(seed: int) -> None:
    lane = PowerLoss(seed, steps=30, look_chance=0.2)
    assert lane.run() == []
    assert lane.states > 50
    assert len(lane.oracle.durable) > 20


@pytest.mark.parametrize("seed", range(4, 5))
def test_nothing_acknowledged_is_lost_beside_the_flush_and_the_filling_of_spares(seed: int) -> None:
    lane = PowerLoss(seed, steps=30, look_chance=0.1, flush_seconds=0.001, spares_max=2)
    assert lane.run() == []


@pytest.mark.parametrize("seed", [6, *(pytest.param(seed, marks=pytest.mark.long) for seed in (7, 8, 9))])
def test_nothing_acknowledged_is_lost_when_the_power_fails_again_during_recovery(seed: int) -> None:
    lane = PowerLoss(seed, steps=25, look_chance=0.15, go_on_chance=1, look_in_recovery_chance=0.6)
    assert lane.run() == []


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_nothing_acknowledged_is_lost_in_thousands_of_crash_states(
    capsys: pytest.CaptureFixture[str],
) -> None:
    states = operations = 0
    for seed in todays_seeds(100, 15):
        lane = PowerLoss(
            seed,
            steps=60,
            look_chance=0.2,
            flush_seconds=3600 if seed % 3 else 0.001,
            spares_max=seed % 2 * 2,
            look_in_recovery_chance=0.4,
        )
        assert lane.run() == [], f"seed {seed}"
        states += lane.states
        operations += lane.operations
    with capsys.disabled():
        sys.stdout.write(
            f"\n{operations} disk operations, {states} crash states, 0 acknowledged records lost\n"
        )
