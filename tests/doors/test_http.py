"""The questions over HTTP: the same answers as the command line's, each to whom it belongs."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.doors.asked import PAGE, Stage, refusal, staged, token_of
from tests.doors.serving import serving
from tests.rpc.clients import opened_runtime

import custody
from custody.cli.document import encode
from custody.doors.server.app import DoorBounds
from custody.journal import MemoryDisk
from custody.rpc.access import TokenDoor
from custody.rpc.service import Limits
from custody.rpc.tokens import Tokens

# -- the answers --------------------------------------------------------------------------------------------


def test_a_call_is_the_object_the_command_line_shows(stage: Stage):
    listed = stage.answer("/calls")["items"]
    assert len(listed) == 4
    for item in listed:
        shown = stage.answer(f"/calls/{item['id']}")
        assert shown == json.loads(encode(stage.index.call(item["id"])))
    assert listed == json.loads(encode(stage.index.calls().items))


def test_a_run_is_the_object_the_command_line_shows(stage: Stage):
    assert stage.answer(f"/runs/{stage.ada.id}") == json.loads(encode(stage.ada))
    assert stage.answer("/runs")["items"] == json.loads(encode(stage.index.runs().items))


def test_an_id_may_be_shortened_where_everything_is_seen(stage: Stage):
    assert stage.answer(f"/runs/{stage.ada.id[:8]}")["id"] == stage.ada.id
    assert refusal(stage.get(f"/runs/{stage.ada.id[:8]}", "ada")) == (404, "not_found")


def test_the_calls_of_a_run_come_in_order(stage: Stage):
    calls = stage.answer(f"/runs/{stage.ada.id}/calls")["items"]
    assert [call["position"] for call in calls] == [0, 1]
    assert [call["outcome"] for call in calls] == ["succeeded", "failed"]


def test_the_trace_of_a_run_has_its_turns_between_start_and_end(stage: Stage):
    trace = stage.answer(f"/runs/{stage.ada.id}/trace")
    assert [item["record"] for item in trace["items"]] == ["started", "turn", "turn", "model_turn", "ended"]
    first = stage.answer(f"/runs/{stage.ada.id}/trace?limit=2")
    assert first == {"items": trace["items"][:2], "next": "2"}
    rest = stage.answer(f"/runs/{stage.ada.id}/trace?cursor={first['next']}")
    assert rest == {"items": trace["items"][2:], "next": None}


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("", 4), ("?tool=file_read", 4), ("?tool=exec", 0), ("?outcome=failed", 1), ("?agent=ada", 2),
        ("?agent=ada&outcome=failed", 1), ("?agent=nobody", 0), ("?since=1h", 4), ("?until=1h", 0),
        ("?since=2000-01-01&until=2100-01-01T00:00:00%2B02:00", 4), ("?text=missing.txt", 1),
        ("?run=notes", 2), ("?effect=read", 4), ("?door=python", 4), ("?running=true", 0),
        ("?dry_run=false", 4),
        ("?top_level=true", 4), ("?limit=3", 3), ("?action_id=a1", 0), ("?attempt=1", 0),
    ],
)  # fmt: skip
def test_calls_are_filtered_by_the_names_the_command_line_has(stage: Stage, query: str, count: int):
    assert len(stage.ids(f"/calls{query}")) == count


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("", 2), ("?agent=bob", 1), ("?name=notes", 1), ("?outcome=succeeded", 2), ("?running=true", 0),
        ("?running=false", 2), ("?text=note", 1), ("?channel=x", 0), ("?order=oldest", 2),
    ],
)  # fmt: skip
def test_runs_are_filtered_by_the_names_the_command_line_has(stage: Stage, query: str, count: int):
    assert len(stage.ids(f"/runs{query}")) == count


def test_pages_together_are_the_list(stage: Stage):
    whole, cursor = stage.ids("/calls"), None
    paged: list[str] = []
    while True:
        page = stage.answer(f"/calls?limit=1{'' if cursor is None else f'&cursor={cursor}'}")
        paged += [item["id"] for item in page["items"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert paged == whole


def test_records_go_on_where_the_page_before_ended(stage: Stage):
    whole = stage.answer("/records?limit=1000")
    assert whole["next"] is None
    paged, cursor = [], "start"
    while cursor is not None:
        page = stage.answer(f"/records?limit=3&cursor={cursor}")
        paged += page["items"]
        cursor = page["next"]
    assert paged == whole["items"]
    assert stage.answer(f"/records?cursor={whole['cursor']}")["items"] == []


def test_records_are_found_by_kind_and_name(stage: Stage):
    assert len(stage.answer("/records?kind=call_started&limit=100")["items"]) == 4
    events = stage.answer("/records?kind=event&name=writer.opened")["items"]
    assert {event["name"] for event in events} == {"writer.opened"}


# -- who sees what ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["operator", "auditor", "host"])
def test_who_watches_over_agents_sees_everything(stage: Stage, role: str):
    assert len(stage.ids("/runs", role)) == 2
    assert stage.get("/records", role).status_code == 200


def test_an_agent_sees_its_own(stage: Stage):
    assert stage.ids("/runs", "ada") == [stage.ada.id]
    assert {call["agent"] for call in stage.answer("/calls", "ada")["items"]} == {"ada"}
    assert stage.get(f"/runs/{stage.ada.id}/trace", "ada").status_code == 200


def test_what_is_anothers_is_as_if_it_never_was(stage: Stage):
    """Word for word the same answer, but for the id that was asked for."""
    (bobs,) = stage.ids(f"/runs/{stage.bob.id}/calls")
    for path, foreign in (("/runs/{}", stage.bob.id), ("/runs/{}/calls", stage.bob.id),
                          ("/runs/{}/trace", stage.bob.id), ("/calls/{}", bobs)):  # fmt: skip
        unknown = ("0" if foreign[0] != "0" else "1") + foreign[1:]
        theirs, nobodys = stage.get(path.format(foreign), "ada"), stage.get(path.format(unknown), "ada")
        assert refusal(theirs) == refusal(nobodys) == (404, "not_found")
        assert theirs.text.replace(foreign, unknown) == nobodys.text
    for query in ("run={}", "parent={}"):
        theirs = stage.get(f"/calls?{query.format(stage.bob.id)}", "ada")
        nobodys = stage.get(f"/calls?{query.format('f' * 32)}", "ada")
        assert theirs.status_code == nobodys.status_code
        assert theirs.text.replace(stage.bob.id, "f" * 32) == nobodys.text


@pytest.mark.parametrize("path", ["/runs?parent={}", "/calls?run={}", "/calls?parent={}"])
def test_nothing_tells_whether_another_has_a_run_of_that_name_or_beginning(stage: Stage, path: str):
    for foreign, nobodys in (("notes", "other"), (stage.ada.id[:8], "f" * 8), (stage.ada.id[:16], "f" * 16)):
        theirs = stage.get(path.format(foreign) + "&agent=bob", "agent")
        none = stage.get(path.format(nobodys) + "&agent=bob", "agent")
        assert (theirs.status_code, theirs.text.replace(foreign, nobodys)) == (none.status_code, none.text)


def test_a_token_for_some_methods_opens_nothing_here(stage: Stage):
    for path in ("/runs", "/records", "/metrics", "/events"):
        assert refusal(stage.get(path, "methods")) == (403, "denied")
    assert stage.get("/health", "methods").status_code == 200


def test_the_calls_of_a_run_are_not_those_of_another(stage: Stage):
    found = stage.get(f"/runs/{stage.ada.id}/calls?run={stage.bob.id}")
    assert refusal(found) == (400, "invalid_input")


@pytest.mark.parametrize("token", [None, "auditor"])
def test_who_comes_to_the_websocket_without_one_is_told_what_it_is(stage: Stage, token: str | None):
    found = stage.get("/", token)
    assert refusal(found) == (426, "websocket")
    assert found.headers["upgrade"] == "websocket"
    assert "/openapi.json" in found.json()["error"]["hint"]


def test_a_stream_is_given_no_length(stage: Stage):
    found = stage.client.head("/events", headers=stage.headers("auditor"))
    assert (found.status_code, found.text) == (200, "")
    assert "content-length" not in found.headers


def test_an_agent_does_not_become_another_by_asking(stage: Stage):
    assert stage.ids("/runs?agent=ada", "ada") == [stage.ada.id]
    assert refusal(stage.get("/runs?agent=bob", "ada")) == (404, "not_found")
    assert refusal(stage.get(f"/runs/{stage.bob.id}?agent=bob", "ada")) == (404, "not_found")
    assert refusal(stage.get("/calls?run=notes", "ada")) == (404, "not_found")


def test_an_agent_whose_token_names_none_says_who_it_is(stage: Stage):
    assert refusal(stage.get("/runs", "agent")) == (400, "invalid_input")
    assert stage.ids("/runs?agent=bob", "agent") == [stage.bob.id]
    assert stage.answer(f"/runs/{stage.bob.id}?agent=bob", "agent")["agent"] == "bob"
    assert refusal(stage.get(f"/runs/{stage.bob.id}?agent=ada", "agent")) == (404, "not_found")


@pytest.mark.parametrize("path", ["/records", "/events", "/records?cursor=start"])
def test_the_records_of_all_are_not_for_an_agent(stage: Stage, path: str):
    assert refusal(stage.get(path, "ada")) == (403, "denied")


@pytest.mark.parametrize(
    "path", ["/runs", "/calls", "/records", "/events", "/metrics", "/nothing", "/runs/abcd"]
)
@pytest.mark.parametrize(("token", "code"), [(None, "token_required"), ("nobody", "token_refused")])
def test_without_a_token_that_is_good_nothing_is_told(stage: Stage, path: str, token: str | None, code: str):
    response = stage.get(path, token)
    assert refusal(response) == (401, code)
    assert response.headers["www-authenticate"].startswith("Bearer")


def test_whether_it_lives_and_what_it_can_do_is_told_to_anybody(stage: Stage):
    assert stage.answer("/health", None) == {"status": "alive"}
    assert stage.answer("/ready", None) == {"status": "ready"}
    assert stage.answer("/openapi.json", None)["openapi"].startswith("3.1")


# -- bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("/runs?limit=0", "limit"), ("/runs?limit=1001", "limit"), ("/runs?limit=x", "limit"),
        ("/runs?limit=1&limit=2", "limit"), ("/runs?nothing=1", "nothing"), ("/runs?outcome=fine", "outcome"),
        ("/calls?effect=x", "effect"), ("/calls?attempt=0", "attempt"), ("/calls?since=soon", "soon"),
        ("/calls?order=best", "order"), ("/calls?running=maybe", "running"), ("/calls?cursor=%00", "cursor"),
        ("/calls?cursor=" + "x" * 5_000, "cursor"), ("/records?cursor=e30x", "cursor"),
        ("/records?cursor=eyIwIjpbMSwyLC0zXX0", "cursor"), ("/records?kind=nothing", "kind"),
        ("/runs?since=1e400d", "time"), ("/runs?" + "&".join(f"a{n}=1" for n in range(100)), "parameters"),
        ("/calls?since=99999999999d", "time"), ("/calls?until=0001-01-01", ""),
    ],
)  # fmt: skip
def test_a_wrong_query_is_refused_by_name(stage: Stage, path: str, names: str):
    response = stage.get(path)
    if names:
        assert response.status_code == 400, response.text
        assert names in response.json()["error"]["message"]
    else:
        assert response.status_code in (200, 400), response.text


@pytest.mark.parametrize(
    "identifier",
    [
        "%2e%2e",
        "..%2f..%2fkeys%2fserve.token",
        "%00",
        "latest",
        "notes",
        "x" * 3_000,
        "*",
        "%ff",
        "'--",
        "a",
    ],
)
@pytest.mark.parametrize("path", ["/runs/{}", "/runs/{}/calls", "/calls/{}", "/runs/{}/trace"])
def test_what_is_no_id_is_not_there(stage: Stage, path: str, identifier: str):
    response = stage.get(path.format(identifier))
    assert response.status_code == 404, response.text
    assert refusal(response)[1] == "not_found"


@pytest.mark.parametrize(
    "path", ["/../keys/serve.token", "/%2e%2e/keys/serve.token", "/runs//", "/runs/", "/RUNS"]
)
def test_there_is_nothing_else(stage: Stage, path: str):
    assert refusal(stage.get(path)) == (404, "not_found")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND"])
def test_what_is_read_cannot_be_written(stage: Stage, method: str):
    response = stage.client.request(method, "/runs", headers=stage.headers("host"))
    assert refusal(response) == (405, "method_not_allowed")
    assert response.headers["allow"] == "GET, HEAD, OPTIONS"


def test_head_is_get_without_its_body(stage: Stage):
    for path in ("/runs", "/health", "/metrics", "/openapi.json", "/records"):
        head = stage.client.head(path, headers=stage.headers("auditor"))
        assert (head.status_code, head.content) == (200, b"")
    events = stage.client.head("/events", headers=stage.headers("auditor"))
    assert (events.status_code, events.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")


def test_options_says_what_there_is(stage: Stage):
    response = stage.client.options("/boundary")
    assert (response.status_code, response.headers["allow"]) == (204, "OPTIONS, POST")
    assert stage.client.options("/nothing").status_code == 401


def test_a_page_that_may_read_is_told_so_and_no_other(stage: Stage):
    allowed = stage.client.options("/runs", headers={"Origin": PAGE})
    assert allowed.headers["access-control-allow-origin"] == PAGE
    read = stage.client.get("/runs", headers={"Origin": PAGE, **stage.headers("auditor")})
    assert (read.status_code, read.headers["access-control-allow-origin"]) == (200, PAGE)
    other = stage.client.get("/runs", headers={"Origin": "https://evil.example", **stage.headers("auditor")})
    assert refusal(other) == (403, "origin_refused")
    assert "access-control-allow-origin" not in other.headers
    elsewhere = stage.client.get("/health", headers={"Host": "evil.example"})
    assert refusal(elsewhere) == (421, "host_refused")


def test_nothing_may_be_kept_or_run_by_a_browser(stage: Stage):
    for path in ("/runs", "/nothing", "/openapi.json"):
        headers = stage.get(path).headers
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]


# -- notices, figures ---------------------------------------------------------------------------------------


def test_a_notice_of_another_program_is_put_on_the_record(stage: Stage):
    def post(**notice: Any) -> httpx.Response:
        return stage.client.post("/boundary", json=notice, headers=stage.headers("agent"))

    begun = post(pid=7, sig="s", event="start", tool="make")
    assert (begun.status_code, begun.json()["sig"]) == (200, "s")
    assert post(pid=7, sig="s", event="end").status_code == 200
    assert post(pid=7, sig="s", event="end").status_code == 404
    assert post(pid=7).status_code == 400
    assert len(stage.index.events(name="boundary.received").items) == 2


def test_a_notice_needs_a_token_and_has_its_size(stage: Stage):
    assert refusal(stage.client.post("/boundary", json={})) == (401, "token_required")
    reader = stage.client.post("/boundary", json={}, headers=stage.headers("auditor"))
    assert refusal(reader) == (403, "denied")
    large = stage.client.post("/boundary", content=b"x" * 70_000, headers=stage.headers("agent"))
    assert refusal(large) == (413, "too_large")
    pieces = (b"x" * 1_000 for _ in range(100))
    grown = stage.client.post("/boundary", content=pieces, headers=stage.headers("agent"))
    assert refusal(grown) == (413, "too_large")


def test_metrics_are_prometheus_text(stage: Stage):
    response = stage.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    from prometheus_client.parser import text_string_to_metric_families

    families = {family.name: family for family in text_string_to_metric_families(response.text)}
    assert families["custody_connections"].samples[0].value >= 1
    assert families["custody_journal_durable_sequence"].samples[0].value > 0
    assert "process_resident_memory_bytes" in families


def test_ready_says_no_where_nothing_could_be_recorded():
    async def main() -> None:
        async with (
            opened_runtime() as runtime,
            serving(runtime, writable=lambda: False) as served,
            httpx.AsyncClient(base_url=served.url, timeout=20) as client,
        ):
            assert refusal(await client.get("/ready")) == (503, "store_not_writable")
            assert (await client.get("/health")).status_code == 200
            served.service.draining = True
            assert refusal(await client.get("/ready")) == (503, "draining")

    asyncio.run(main())


def test_who_asks_too_often_waits_and_others_do_not():
    tokens = Tokens(MemoryDisk())
    one, other = token_of(tokens, "one", "auditor"), token_of(tokens, "other", "auditor")

    async def main() -> None:
        options: Any = {
            "doorkeeper": TokenDoor(tokens.known),
            "bounds": DoorBounds(requests_per_second=3),
            "limits": Limits(),
        }
        async with (
            opened_runtime() as runtime,
            serving(runtime, **options) as served,
            httpx.AsyncClient(base_url=served.url, timeout=20) as client,
        ):
            mine = {"Authorization": f"Bearer {one}"}
            answers = [await client.get("/runs", headers=mine) for _ in range(3)]
            assert [answer.status_code for answer in answers] == [200] * 3
            while answers[-1].status_code == 200:  # whoever asks slowly may go on asking
                answers.append(await client.get("/runs", headers=mine))
            assert refusal(answers[-1]) == (429, "too_often")
            theirs = {"Authorization": f"Bearer {other}"}
            assert (await client.get("/runs", headers=theirs)).status_code == 200

    asyncio.run(main())


def test_secrets_are_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    secret = "correct-horse-battery-staple"
    monkeypatch.setenv("DATABASE_PASSWORD", secret)
    with staged(tmp_path) as stage:  # of its own: the other tests count the calls of theirs
        with custody.open(stage.store) as runtime:
            runtime.call("file_read", {"path": f"{secret}.txt"})
        (newest,) = stage.answer("/calls?limit=1")["items"]
        assert secret not in json.dumps(newest)
        assert secret not in stage.get("/records?limit=1000").text
