"""As `test_http_described`, with many requests: schemathesis makes some of them while tests are collected."""

from typing import Any

import pytest
from tests.doors.asked import Stage
from tests.doors.test_http_described import ask, described, examples

pytestmark = pytest.mark.long


@described.parametrize()
@examples(300)
def test_many_requests_are_answered_as_described(case: Any, stage: Stage):
    ask(case, stage)
