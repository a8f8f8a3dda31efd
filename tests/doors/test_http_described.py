"""What the HTTP side says of itself holds: schemathesis asks it all that its description allows, and more."""

from collections.abc import Callable, Iterator
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis import checks
from tests.doors.asked import Stage
from tests.doors.http_reference import PAGE, made

from custody.doors.server.http import PATHS
from custody.doors.server.openapi import openapi_document

CHECKS: list[Any] = [
    getattr(checks, name)
    for name in (
        "not_a_server_error", "status_code_conformance", "content_type_conformance",
        "response_headers_conformance", "response_schema_conformance",
    )
]  # fmt: skip

described: Any = schemathesis.openapi.from_dict(
    {
        **openapi_document(),
        "paths": {path: of for path, of in openapi_document()["paths"].items() if path != "/events"},
    }
)  # an endless answer is not for it


def examples(count: int) -> Callable[[Any], Any]:
    return settings(
        max_examples=count, phases=[Phase.explicit, Phase.generate], derandomize=True, deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )  # fmt: skip


@described.include(path=["/calls", "/boundary"]).parametrize()
@examples(3)
def test_a_few_requests_are_answered_as_described(case: Any, stage: Stage):
    ask(case, stage)


def ask(case: Any, stage: Stage) -> None:
    case.call_and_validate(
        base_url=stage.served.url, headers=stage.headers("host"), session=stage.session, checks=CHECKS,
        timeout=30,
    )  # fmt: skip


def test_every_path_is_described():
    described = {(path, method.upper()) for path, of in openapi_document()["paths"].items() for method in of}
    assert described == set(PATHS)


def test_every_answer_and_parameter_has_its_words():
    for operation in operations():
        assert operation["summary"].endswith(".")
        assert all(response["description"] for response in operation["responses"].values())
        assert {"200", "401"} <= set(operation["responses"]) or operation.get("security") == []


def test_the_reference_page_says_what_is_there():
    page = PAGE.read_text(encoding="utf-8")
    assert page == made(page), "python -m tests.doors.http_reference writes it"


def operations() -> Iterator[dict[str, Any]]:
    for of in openapi_document()["paths"].values():
        yield from of.values()
