"""What is asked of the index and what it answers."""

import msgspec
import pytest
from tests.index.conftest import call_id, request, run_id, us

from custody.errors import Ambiguous, InvalidInput, NotFound
from custody.index import CallFilter, EventFilter, RunFilter
from custody.records import CallAnswered, CallAsked, Decision, Redaction, RunFinished, Usage


def ids(page):
    return [item.id for item in page.items]


def calls(store, **fields):
    return [int(item[:4], 16) for item in ids(store.index().calls(CallFilter(**fields)))]


def runs(store, **fields):
    return [int(item[:2], 16) - 0xA0 for item in ids(store.index().runs(RunFilter(**fields)))]


# -- whole calls and runs -------------------------------------------------------------------------------


def test_a_call_is_put_together_from_its_records(store):
    store.start_run(1, agent="ada", caller="kim", session_id="s", workspace="/w")
    before = store.event(90, "host.sampled", data={"load": 0.5})
    store.start_call(
        1, 2.0, run=1, position=3, arguments={"argv": ["ls"]}, withheld=["API_TOKEN"], pid=12, thread_id=13,
        external_id="toolu_1", host_before=before,
    )  # fmt: skip
    usage = Usage(wall_us=400_000, stdout_bytes=3)
    store.finish_call(
        1, 2.5, "failed", result={"stdout": "a\n"}, error={"type": "ExitCode", "message": "7"},
        reason="exit code 7", exit_code=7, latency_us=400_000, usage=usage, monotonic_ns=9_000,
        child_pid=99, child_start_ticks=5,
        redactions=(Redaction("sensitive_key", "result.token"),),
    )  # fmt: skip
    call = store.index().call("0001")
    assert call.run_id == run_id(1).hex() and call.position == 3
    assert (call.agent, call.caller, call.session_id, call.workspace) == ("ada", "kim", "s", "/w")
    assert (call.arguments, call.result) == ({"argv": ["ls"]}, {"stdout": "a\n"})
    assert (call.outcome, call.reason, call.exit_code) == ("failed", "exit code 7", 7)
    assert call.error == {"type": "ExitCode", "message": "7"}
    assert (call.started_at, call.finished_at) == (
        "2026-09-21T14:13:22.000000Z",
        "2026-09-21T14:13:22.500000Z",
    )
    assert (call.monotonic_start_ns, call.monotonic_end_ns, call.latency_us) == (7_001, 9_000, 400_000)
    assert (call.usage, call.child_pid, call.environment_withheld) == (usage, 99, ("API_TOKEN",))
    assert (call.host_before, call.host_after) == ({"load": 0.5}, None)
    assert call.redactions == (Redaction("sensitive_key", "result.token"),)


def test_a_running_call_has_no_outcome_and_no_result(store):
    store.start_call(1)
    call = store.index().call("0001")
    assert (call.outcome, call.result, call.finished_at, call.latency_us) == (None, None, None, None)


def test_a_rejected_call_is_one_record_and_never_started(store):
    store.reject_call(1, arguments={"argv": ["rm"]})
    call = store.index().call("0001")
    assert (call.outcome, call.reason, call.started_at) == ("rejected", "denied", None)
    assert call.arguments == {"argv": ["rm"]}


def test_an_answer_takes_the_place_of_the_ask(store):
    ask, yes = Decision("ask", "rule", "dangerous", "r1"), Decision("allow", "person", "fine")
    store.put(CallAsked(call_id(1), request(1.0, decision=ask), b""), {"arguments": {"x": 1}})
    assert store.index().call("0001").decision == ask
    store.put(CallAnswered(call_id(1), us(2), yes, b""), {})
    assert store.index().call("0001").decision == yes
    assert [call.started for call in store.index().open_calls()] == [False]


def test_a_run_is_put_together_from_its_records(store):
    store.start_run(
        1, name="build", intent="make it green", inputs={"n": 1}, labels={"team": "x"}, shared=True
    )
    store.call(1, 1.0, run=1, position=0)
    store.call(2, 2.0, "failed", run=1, position=1)
    store.start_call(3, 3.0, run=1, position=2)
    store.put(RunFinished(run_id(1), us(9), b"", "failed", "tests fail", passed=False), {"output": [1]})
    run = store.index().run("build")
    assert (run.intent, run.inputs, run.labels, run.output) == ("make it green", {"n": 1}, {"team": "x"}, [1])
    assert (run.outcome, run.reason, run.passed, run.duration_us) == (
        "failed",
        "tests fail",
        False,
        9_000_000,
    )
    assert (run.calls, run.calls_by_outcome) == (3, {"running": 1, "succeeded": 1, "failed": 1})


def test_large_values_come_out_of_their_blobs(store):
    store.start_call(1, arguments=store.put_blob({"text": "needle " * 10_000}))
    index = store.index()
    assert index.call("0001").arguments == {"text": "needle " * 10_000}
    assert ids(index.calls(CallFilter(text="needle"))) == [call_id(1).hex()]


def test_a_purged_value_is_unknown(store):
    store.start_call(1, arguments={"$blob": "00" * 32, "bytes": 3})
    assert store.index().call("0001").arguments is None


def test_bytes_are_shown_as_json_can_hold_them(store):
    store.call(1, result={"stdout": b"\xff\xfe"})
    msgspec.json.encode(store.index().call("0001"))
    assert "stdout" in store.index().call("0001").result


def test_a_runs_calls_come_by_position(store):
    store.start_run(1)
    for number, position in ((1, 2), (2, 0), (3, 1)):
        store.call(number, number, run=1, position=position)
    store.step(50, 1, 3, text="thinking")
    index = store.index()
    assert [call.position for call in index.run_calls(run_id(1))] == [0, 1, 2]
    assert [(step.position, step.text) for step in index.run_steps(run_id(1))] == [(3, "thinking")]
    assert (index.max_position(run_id(1)), index.max_position(run_id(2))) == (3, -1)


def test_what_is_not_over_is_listed_for_recovery(store):
    store.start_run(1, owner_pid=40, owner_start_ticks=41, shared=True)
    store.start_run(2)
    store.finish_run(2)
    store.start_call(1, 1.0, run=1, pid=42, owner_pid=43, owner_start_ticks=44)
    store.call(2, 2.0, run=1)
    (call,) = store.index().open_calls()
    assert (call.call_id, call.run_id, call.started, call.pid) == (call_id(1), run_id(1), True, 42)
    assert (call.owner_pid, call.owner_start_ticks, call.started_monotonic_ns) == (43, 44, 7_001)
    (run,) = store.index().open_runs()
    assert (run.run_id, run.owner_pid, run.owner_start_ticks, run.shared) == (run_id(1), 40, 41, True)
    assert run.shard == call.shard and run.sequence < call.sequence


def test_sessions_come_last_used_first_with_what_belongs_to_them(store):
    store.start_run(1, 0.0, session_id="old", agent="ada")
    store.start_run(2, 5.0, session_id="new", agent="bob")
    store.call(1, 1.0, run=1)
    store.call(2, 9.0, run=1, agent="eve")
    store.call(3, 3.0, session_id="lone")
    page = store.index().sessions(limit=2)
    assert [(one.id, one.runs, one.calls, one.agents) for one in page.items] == [
        ("old", 1, 2, ["ada", "eve"]),
        ("new", 1, 0, ["bob"]),
    ]
    assert page.items[0].last_at == "2026-09-21T14:13:29.000000Z"
    rest = store.index().sessions(limit=2, cursor=page.next)
    assert ([one.id for one in rest.items], rest.next) == (["lone"], None)


def test_stats_are_by_tool_and_outcome(store):
    for number in range(1, 101):
        store.call(number, number, latency_us=number, tool="exec")
    store.call(200, 200, "failed", tool="git", latency_us=5)
    store.start_call(201, 201, tool="git")
    stats = store.index().stats()
    assert (stats.calls, stats.by_outcome) == (102, {"succeeded": 100, "failed": 1, "running": 1})
    first, second = stats.tools
    assert (first.tool, first.calls, first.latency_total_us) == ("exec", 100, 5050)
    assert (first.latency_p50_us, first.latency_p95_us, first.latency_p99_us) == (50, 95, 99)
    assert (second.by_outcome, second.latency_p50_us) == ({"failed": 1, "running": 1}, 5)
    assert store.index().stats(CallFilter(tool="git", text="exec")).calls == 0


def test_events_are_found_by_name_run_and_call(store):
    store.start_run(1)
    store.call(1, run=1)
    store.event(91, "run.model", 1.0, {"m": 1}, run_id=run_id(1))
    store.event(92, "recovery.reaped", 2.0, call_id=call_id(1))
    store.event(93, "app.note", 3.0)
    index = store.index()
    assert [event.name for event in index.events().items] == ["app.note", "recovery.reaped", "run.model"]
    assert [event.data for event in index.events(EventFilter(run=run_id(1).hex())).items] == [{"m": 1}]
    assert [event.name for event in index.events(EventFilter(call="0001")).items] == ["recovery.reaped"]
    assert [event.name for event in index.events(EventFilter(name="app.note")).items] == ["app.note"]


def test_a_record_can_be_described(store):
    store.start_call(1, arguments={"argv": ["ls"]})
    (stored,) = [stored for stored in store.writer.follow() if stored.kind == 5]
    described = store.index().describe(stored)
    assert (described["kind"], described["call_id"]) == ("call_started", call_id(1).hex())
    assert described["payload"] == {"arguments": {"argv": ["ls"]}}
    assert described["request"]["asked_at"] == "2026-09-21T14:13:20.000000Z"


# -- filters --------------------------------------------------------------------------------------------


@pytest.fixture
def mixed(store):
    store.start_run(1, 0.0, name="one", agent="ada", session_id="s1", workspace="/a", intent="paint the shed")
    store.start_run(2, 1.0, caller="kim", channel="chat", parent_run_id=run_id(1), workspace="/b")
    store.finish_run(2, 9.0, "failed")
    store.call(1, 1.0, run=1, arguments={"argv": ["ls", "-l"]}, result={"stdout": "shed.py walls.py"})
    store.call(
        2, 2.0, "failed", run=1, tool="git", parent_id=call_id(1), error={"type": "E", "message": "bad ref"}
    )
    store.call(3, 3.0, run=2, agent="bob", effect="read", door="mcp", external_id="x-1")
    store.call(4, 4.0, dry_run=True, workspace="/c", caller="lee", session_id="s2")
    store.start_call(5, 5.0, run=2)
    store.reject_call(6, 6.0, arguments={"argv": ["rm", "shed.py"]})
    return store


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [6, 5, 4, 3, 2, 1]),
        ({"order": "oldest"}, [1, 2, 3, 4, 5, 6]),
        ({"run": "one"}, [2, 1]),
        ({"run": run_id(2).hex()}, [5, 3]),
        ({"run": "a1"}, [2, 1]),
        ({"session": "s1"}, [2, 1]),
        ({"session": "s2"}, [4]),
        ({"workspace": "/b"}, [5, 3]),
        ({"workspace": "/c"}, [4]),
        ({"agent": "ada"}, [2, 1]),
        ({"agent": "bob"}, [3]),
        ({"caller": "kim"}, [5, 3]),
        ({"tool": "git"}, [2]),
        ({"tool": "exec"}, [6, 5, 4, 3, 1]),
        ({"tool": "exe"}, []),
        ({"outcome": "running"}, [5]),
        ({"outcome": "failed"}, [2]),
        ({"outcome": "rejected"}, [6]),
        ({"tool": "exec", "outcome": "succeeded"}, [4, 3, 1]),
        ({"effect": "read"}, [3]),
        ({"since_us": us(3), "until_us": us(5)}, [4, 3]),
        ({"until_us": us(2), "tool": "exec"}, [1]),
        ({"parent": "0001"}, [2]),
        ({"top_level": True}, [6, 5, 4, 3, 1]),
        ({"external_id": "x-1"}, [3]),
        ({"door": "mcp"}, [3]),
        ({"dry_run": True}, [4]),
        ({"dry_run": False, "caller": "kim"}, [5, 3]),
        ({"text": "shed.py"}, [6, 1]),
        ({"text": "walls ls"}, [1]),
        ({"text": "SHED", "outcome": "rejected"}, [6]),
        ({"text": '"bad ref"'}, [2]),
        ({"text": '"ref bad"'}, []),
        ({"text": "ref bad"}, [2]),
        ({"text": "argv"}, []),
        ({"text": "shed", "order": "oldest"}, [1, 6]),
        ({"text": "  "}, [6, 5, 4, 3, 2, 1]),
        ({"tool": "exec", "workspace": "/b", "agent": "bob", "since_us": us(1)}, [3]),
    ],
)
def test_calls_are_filtered(mixed, fields, expected):
    assert calls(mixed, **fields) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [2, 1]),
        ({"running": True}, [1]),
        ({"running": False}, [2]),
        ({"running": True, "outcome": "failed"}, []),
        ({"name": "one"}, [1]),
        ({"agent": "ada"}, [1]),
        ({"caller": "kim"}, [2]),
        ({"channel": "chat"}, [2]),
        ({"session": "s1"}, [1]),
        ({"workspace": "/b"}, [2]),
        ({"outcome": "failed"}, [2]),
        ({"outcome": "running"}, [1]),
        ({"since_us": us(1)}, [2]),
        ({"until_us": us(1)}, [1]),
        ({"parent": "one"}, [2]),
        ({"top_level": True}, [1]),
        ({"text": "shed painting"}, []),
        ({"text": "paint shed"}, [1]),
        ({"order": "oldest"}, [1, 2]),
    ],
)
def test_runs_are_filtered(mixed, fields, expected):
    assert runs(mixed, **fields) == expected


@pytest.mark.parametrize(
    "fields", [{"outcome": "completed"}, {"effect": "delete"}, {"order": "sideways"}, {"text": "a " * 600}]
)
def test_a_filter_that_says_nothing_known_is_refused(mixed, fields):
    with pytest.raises(InvalidInput):
        calls(mixed, **fields)


@pytest.mark.parametrize("fields", [{"run": "nope"}, {"parent": "ffff"}])
def test_a_filter_by_something_that_is_not_there_says_so(mixed, fields):
    with pytest.raises(NotFound):
        calls(mixed, **fields)


@pytest.mark.parametrize("limit", [0, -1, 1_001])
def test_a_page_has_a_bound(mixed, limit):
    with pytest.raises(InvalidInput):
        mixed.index().calls(limit=limit)


# -- lookups --------------------------------------------------------------------------------------------


def test_any_unique_prefix_will_do(mixed):
    index = mixed.index()
    assert index.call("0003").id == call_id(3).hex()
    assert index.call(call_id(3).hex().upper()).id == call_id(3).hex()
    assert index.run("a2").id == run_id(2).hex()
    assert index.find("one").id == index.find("a1a").id == run_id(1).hex()
    assert index.find("0006").id == call_id(6).hex()
    assert index.run("latest").id == index.find("-").id == run_id(2).hex()


def test_an_ambiguous_prefix_names_up_to_five_candidates(mixed):
    with pytest.raises(Ambiguous) as caught:
        mixed.index().call("00")
    assert caught.value.details["candidates"] == [call_id(number).hex() for number in (1, 2, 3, 4, 5)]
    with pytest.raises(Ambiguous, match="Give more"):
        mixed.index().run("a")


@pytest.mark.parametrize(
    "text", ["ffff", "", "zebra", "0001" * 9, "a1" * 17, "\0", "\udcff", "x" * 10_000, "%", "'"]
)
def test_what_is_not_there_is_not_found(mixed, text):
    if text == "":
        with pytest.raises((NotFound, Ambiguous)):
            mixed.index().find(text)
        return
    with pytest.raises(NotFound, match="custody runs"):
        mixed.index().find(text)


def test_a_near_name_is_offered(mixed):
    mixed.start_run(3, name="deploy-frontend")
    with pytest.raises(NotFound, match="Did you mean deploy-frontend"):
        mixed.index().run("deploy-frontent")


def test_the_newest_run_of_a_name_is_meant(store):
    store.start_run(1, 1.0, name="nightly")
    store.start_run(2, 2.0, name="nightly")
    assert store.index().run("nightly").id == run_id(2).hex()


@pytest.mark.parametrize("number", [0xFF, 0x00])
def test_ids_at_both_ends_are_found(store, number):
    store.start_call(number << 8 | number)
    store.start_call(0x7000)
    assert store.index().call(f"{number:02x}").id.startswith(f"{number:02x}")


# -- text -----------------------------------------------------------------------------------------------

NONSENSE = [
    '"', '""', '"""', "AND", "OR NOT", "NEAR(a b)", "*", "a*", "^a", "a:b", "-a", "+a", "(", ")", "{x}",
    "text:shed", "\0", "a\0b", "\udcff", "'; DROP TABLE calls; --", "éé", "日本語", "%", "?1 :x",
    "a" * 999, '"' * 999, "* " * 400,
]  # fmt: skip


@pytest.mark.parametrize("text", NONSENSE)
def test_any_text_is_a_question(mixed, text):
    index = mixed.index()
    assert ids(index.calls(CallFilter(text=text))) == []
    assert ids(index.runs(RunFilter(text=text))) == []
    assert index.stats(CallFilter(text=text)).calls == 0


def test_text_beyond_the_bounds_is_refused_with_the_bound(mixed):
    for text in ("a" * 10_240, "ab " * 100):
        with pytest.raises(InvalidInput, match="at most"):
            mixed.index().calls(CallFilter(text=text))


def test_every_searchable_part_of_a_call_is_found(store):
    store.start_call(1, tool="file_edit", arguments={"path": "/srv/app.py", "edits": [{"old": "alpha"}, 42]})
    store.finish_call(1, 1.0, "failed", result={"out": b"beta"}, error={"message": "gamma"}, reason="delta")
    index = store.index()
    for word in ("file_edit", "app.py", "alpha", "42", "beta", "gamma", "delta", "alpha delta"):
        assert ids(index.calls(CallFilter(text=word))) == [call_id(1).hex()], word


def test_text_of_both_ends_is_found_however_they_were_indexed(store):
    index = store.index()
    store.start_call(1, arguments={"q": "alpha"})
    assert len(index.calls(CallFilter(text="alpha")).items) == 1
    store.finish_call(1, result={"r": "omega"})
    assert len(index.calls(CallFilter(text="alpha omega")).items) == 1


def test_a_frequent_word_is_found_newest_first_over_many_blocks(new_store, monkeypatch):
    from custody.index import rows, search

    for module in (rows, search):
        monkeypatch.setattr(module, "SPAN_ROWS", 8)
    monkeypatch.setattr(search, "FOUND_ROWS_MAX", 5)
    store = new_store()
    for number in range(1, 101):
        # Blocks of rows overlap in time, as several shards make them.
        store.call(number, (number * 37) % 101, "failed" if number % 9 == 0 else "succeeded", tool="common")
    index = store.index()
    everything = CallFilter(text="common")
    listed = [item for order in ("newest", "oldest") for item in walk(index, everything, 7, order)]
    by_time = [
        call_id(number).hex() for number in sorted(range(1, 101), key=lambda number: -(number * 37 % 101))
    ]
    assert listed == by_time + by_time[::-1]
    failed = [item.id for item in index.calls(CallFilter(outcome="failed")).items]
    assert ids(index.calls(CallFilter(text="common", outcome="failed"))) == failed
    late = CallFilter(text="common", since_us=us(30), until_us=us(40))
    assert ids(index.calls(late)) == ids(index.calls(CallFilter(since_us=us(30), until_us=us(40))))


def walk(index, wanted, limit, order="newest"):
    wanted = msgspec.structs.replace(wanted, order=order)
    cursor, found = None, []
    while True:
        page = index.calls(wanted, limit, cursor)
        found += ids(page)
        if page.next is None:
            return found
        cursor = page.next


# -- pages ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields", [{}, {"tool": "exec"}, {"outcome": "succeeded"}, {"run": "a1"}, {"text": "exec"}]
)
@pytest.mark.parametrize("order", ["newest", "oldest"])
def test_pages_join_without_gap_or_overlap(new_store, fields, order):
    store = new_store()
    store.start_run(1)
    for number in range(1, 31):
        store.call(number, number // 4, run=1)  # four at the same time
    index = store.index()
    whole = walk(index, CallFilter(**fields), 1_000, order)
    assert len(whole) == 30
    for limit in (1, 3, 29, 30):
        assert walk(index, CallFilter(**fields), limit, order) == whole


def test_a_cursor_stays_where_it_is_while_calls_are_added(store):
    for number in range(1, 21):
        store.call(number, number)
    index = store.index()
    page = index.calls(limit=5)
    seen = ids(page)
    number = 21
    while page.next is not None:
        store.call(number, number)
        number += 1
        page = index.calls(limit=5, cursor=page.next)
        seen += ids(page)
    assert seen == [call_id(number).hex() for number in range(20, 0, -1)]


@pytest.mark.parametrize(
    "cursor", ["", "x", "lKVjYWxsc6Zu", "é", "\0", "====", "AAAA", "a" * 10_000, "\udcff"]
)
def test_an_invalid_cursor_is_refused(mixed, cursor):
    for ask in (mixed.index().calls, mixed.index().runs, mixed.index().events):
        with pytest.raises(InvalidInput, match="cursor"):
            ask(cursor=cursor)
    with pytest.raises(InvalidInput, match="cursor"):
        mixed.index().sessions(cursor=cursor)


def test_a_cursor_of_another_list_is_refused(mixed):
    cursor = mixed.index().calls(limit=1).next
    with pytest.raises(InvalidInput, match="belongs to a list of calls"):
        mixed.index().runs(cursor=cursor)
    with pytest.raises(InvalidInput, match="newest first"):
        mixed.index().calls(CallFilter(order="oldest"), cursor=cursor)
