"""What is true of a store in the program's own process is true of one behind a wire.

The tests of `tests/calls` that are given a runtime or a stage, played by a client of a daemon on both faces.
"""

import inspect
from typing import Any

import pytest
from tests.calls import (
    test_decorator,
    test_observe,
    test_run_end,
    test_steps,
    test_way_of_a_call,
)

pytestmark = pytest.mark.long

MODULES = (test_decorator, test_observe, test_run_end, test_steps, test_way_of_a_call)

OTHERWISE = {
    "test_a_call_says_where_it_came_from_and_what_a_guard_of_that_place_said": "the daemon says that",
    "test_a_function_past_its_deadline_times_out_and_says_what_it_cannot_stop": "its thread is elsewhere",
    "test_a_guard_that_raises_is_a_no": "a tool's own validate is asked where it runs, after the start",
    "test_a_validate_of_the_tool_itself_may_refuse": "as above: the call has failed, and says why",
    "test_iterations_and_the_time_since_the_step_before_count_the_tools_in": "by a clock of the program's",
    "test_a_plain_function_may_be_called_again_and_redefined": "a connection's tool may have any name",
    "test_a_python_function_is_a_tool_with_a_schema_from_its_annotations": "its effect is unknown",
    "test_a_result_that_is_not_json_is_kept_with_a_mark": "a tool's answer is JSON, its marks a mapping",
    "test_a_run_never_left_is_ended_with_its_store": "its connection ends it, some time after",
    "test_durable_waits_until_both_records_survive_a_power_loss": "receipts stay with the daemon",
    "test_a_second_finish_changes_nothing_and_a_different_one_is_refused_and_counted": "not recorded",
    "test_what_is_offered_after_the_end_is_refused_counted_and_said_once": "as above",
    "test_an_isolated_function_runs_in_a_process_that_can_be_killed": "its level is none",
}
"""Test -> why it does not hold over a wire."""


def _over_a_wire() -> dict[str, Any]:
    tests: dict[str, Any] = {}
    for module in MODULES:
        for name, test in vars(module).items():
            if name.startswith("test_") and callable(test) and name not in OTHERWISE:
                fixtures = inspect.signature(test).parameters
                if "stage" in fixtures or "runtime" in fixtures:
                    tests[name] = test
    return tests


globals().update(_over_a_wire())
