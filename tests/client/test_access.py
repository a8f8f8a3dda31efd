"""What a client may see and do is what its token says; to anybody else what is not theirs does not exist."""

import os

import pytest
from tests.calls.faces import wait_until
from tests.client.daemon import Daemon

import custody
from custody.errors import Denied, InvalidInput, NotFound, RunNotShared, UsageError
from custody.index import CallFilter, RunFilter, Scope
from custody.rpc.access import Access, KnownToken, TokenDoor, digest_of
from custody.rpc.tokens import SERVE_TOKEN

TOKENS = {
    "ada's": Access(role="agent", agent="ada"),
    "bob's": Access(role="agent", agent="bob"),
    "ada's reader": Access(role="agent", agent="ada", tools=frozenset({"file_read"})),
    "auditor's": Access(role="auditor"),
    "operator's": Access(role="operator"),
    "anybody's": Access(role="agent"),
}


@pytest.fixture(scope="module")
def keeper():
    return TokenDoor(
        lambda: [KnownToken(digest=digest_of(token), access=access) for token, access in TOKENS.items()]
    )


@pytest.fixture
def daemon(keeper):
    with Daemon(doorkeeper=keeper) as daemon:
        yield daemon


def as_(daemon, whose):
    return daemon.open(token=whose, agent=None)


@pytest.fixture
def adas(daemon):
    """A run of ada's, and a call in it."""
    with as_(daemon, "ada's") as runtime, runtime.run("hers", shared=True, name="nightly") as run:
        call = run.call("exec", {"argv": ["true"]})
        run.step("thinking")
    return run.id, call.id


@pytest.mark.long
def test_a_wrong_token_is_refused_and_the_operator_told_where_one_lies(daemon):
    with pytest.raises(Denied, match="refuses the token") as caught, as_(daemon, "nobody's"):
        pass
    assert "CUSTODY_TOKEN" in caught.value.hint


def test_a_token_binds_its_agent_whatever_the_program_says(daemon):
    with as_(daemon, "ada's") as runtime, runtime.run("hers", agent="bob") as run:
        call = run.call("exec", {"argv": ["true"]})
        with run.observe("search", agent="bob") as observed:
            pass
        assert observed.position == 1
    assert (daemon.runtime.index.run(run.id).agent, call.agent) == ("ada", "ada")
    assert {one.agent for one in daemon.runtime.index.run_calls(run.run_id)} == {"ada"}


def test_what_is_anothers_is_not_there(daemon, adas):
    run_id, call_id = adas
    with as_(daemon, "bob's") as runtime:
        index = runtime.index
        for ask in (
            lambda: index.run(run_id),
            lambda: index.run("nightly"),
            lambda: index.call(call_id),
            lambda: index.find(run_id[:6]),
            lambda: index.timeline(run_id),
            lambda: index.run_calls(bytes.fromhex(run_id)),
            lambda: index.children(run_id),
            lambda: index.calls(run=run_id),
            lambda: index.calls(parent=call_id),
            lambda: index.runs(parent=run_id),
            lambda: index.events(run=run_id),
            lambda: index.usage(scope=Scope(run=run_id)),
            lambda: runtime.join(run_id),
            lambda: runtime.cancel(run_id),
        ):
            with pytest.raises(NotFound):
                ask()
        assert index.calls().items == index.runs().items == []
        assert index.stats().calls == 0


@pytest.mark.long
def test_an_agent_sees_its_own(daemon, adas):
    run_id, call_id = adas
    with as_(daemon, "ada's") as runtime:
        index = runtime.index
        assert [run.id for run in index.runs().items] == [run_id]
        assert [call.id for call in index.calls().items] == [call_id]
        assert index.run("nightly").id == run_id
        assert index.find(call_id[:10]).id == call_id
        assert [entry.kind for entry in index.timeline(run_id).items if entry.kind != "event"] == [
            "call",
            "step",
        ]
        assert index.usage().groups[0].key == "ada"
        assert index.step(index.run_steps(bytes.fromhex(run_id))[0].id).text == "thinking"


@pytest.mark.long
@pytest.mark.parametrize("ask", ["calls", "runs", "stats", "usage", "last_runs", "loops"])
def test_an_agent_may_not_ask_for_others_by_name(daemon, adas, ask):
    filters = {"calls": CallFilter, "runs": RunFilter, "stats": CallFilter, "last_runs": RunFilter}
    given = filters.get(ask, Scope)(agent="ada")
    named = {"usage": "scope", "loops": "scope"}.get(ask, "filter")
    with as_(daemon, "bob's") as runtime, pytest.raises(Denied):
        getattr(runtime.index, ask)(**{named: given})


@pytest.mark.long
def test_questions_across_agents_are_for_those_who_audit(daemon, adas):
    run_id, _ = adas
    with as_(daemon, "ada's") as runtime:
        for ask in (
            lambda: runtime.index.sql("SELECT count(*) FROM calls"),
            lambda: runtime.index.records({}),
            runtime.index.sessions,
            runtime.index.events,
        ):
            with pytest.raises(Denied):
                ask()
    # Both clients of ada's are gone: what the record says of that is not to come while the auditor reads.
    wait_until(lambda: len(daemon.runtime.index.events(name="peer.disconnected").items) == 2)
    with as_(daemon, "auditor's") as runtime:
        assert runtime.index.sql("SELECT count(*) FROM calls").rows == [[1]]
        assert runtime.index.run(run_id[:8]).agent == "ada"
        assert runtime.index.last_runs().items[0].id == run_id
        records, cursor = runtime.index.records({})
        assert [record["kind"] for record in records][-1] == "event"
        assert runtime.index.records(cursor)[0] == []


@pytest.mark.long
def test_an_auditor_does_nothing(daemon):
    with as_(daemon, "auditor's") as runtime:
        with pytest.raises(Denied):
            runtime.call("exec", {"argv": ["true"]})
        with pytest.raises(Denied), runtime.run("no"):
            pass
    assert daemon.runtime.index.calls().items == []


def test_a_token_that_allows_some_tools_allows_no_other_guarded_or_told(daemon):
    with as_(daemon, "ada's reader") as runtime, runtime.run("read") as run:
        call = run.call("exec", {"argv": ["true"]})
        with pytest.raises(Denied) as caught, run.observe("exec", {}, guard=True):
            raise AssertionError("it ran")
    assert (call.outcome, call.decision.rule) == ("rejected", "token")
    decision = caught.value.details["decision"]
    assert (decision.verdict, decision.by, decision.rule) == ("deny", "rule", "token")
    assert [one.outcome for one in daemon.runtime.index.run_calls(run.run_id)] == ["rejected", "rejected"]


@pytest.mark.long
def test_a_part_in_a_run_is_its_connections_alone(daemon, adas):
    with as_(daemon, "ada's") as first, as_(daemon, "ada's") as second:
        with first.run("mine") as run:
            part = {"part": run.part.id, "entries": [], "now": 0}
            with pytest.raises(NotFound):
                second.link.wait(second.link.ask("runs.record", part))
        with as_(daemon, "bob's") as third, pytest.raises(NotFound):
            third.link.wait(third.link.ask("runs.rejoin", {"key": run.part._params["key"]}))


@pytest.mark.long
def test_a_run_that_is_not_shared_is_joined_by_nobody(daemon):
    with as_(daemon, "ada's") as first, as_(daemon, "ada's") as second:
        with first.run("alone") as run, pytest.raises(RunNotShared):
            second.join(run.id)
        with first.run("together", shared=True) as run:
            joined = second.join(run.id)
            with joined:
                joined.call("exec", {"argv": ["true"]})
            run.call("exec", {"argv": ["true"]})
    assert [call.position for call in daemon.runtime.index.run_calls(run.run_id)] == [0, 1]
    assert daemon.runtime.index.run(run.id).outcome == "succeeded"


@pytest.mark.long
def test_a_named_run_is_found_by_its_name_by_its_own_agent_alone(daemon):
    with as_(daemon, "ada's") as first, as_(daemon, "ada's") as second, as_(daemon, "bob's") as other:
        mine, again, others = (one.named_run("nightly", "work") for one in (first, second, other))
        assert mine.id == again.id != others.id
        again.finish("failed", reason="enough")
        assert daemon.runtime.index.run(mine.id).outcome == "failed"
        assert daemon.runtime.index.run(others.id).outcome is None


@pytest.mark.long
def test_the_token_is_looked_for_in_the_environment_and_then_in_the_store_of_this_machine(
    daemon, monkeypatch, tmp_path
):
    with pytest.raises(Denied), custody.open(daemon.address):
        pass
    store = tmp_path / "data" / "custody"
    (store / "keys").mkdir(parents=True)
    (store / SERVE_TOKEN).write_text("anybody's\n")
    with custody.open(daemon.address, agent="cy") as runtime:
        assert runtime.call("exec", {"argv": ["true"]}).agent == "cy"
    monkeypatch.setenv("CAR_AUTH_TOKEN", "bob's")
    with custody.open(daemon.address) as runtime:
        assert runtime.call("exec", {"argv": ["true"]}).agent == "bob"
    monkeypatch.setenv("CUSTODY_TOKEN", "ada's")
    with custody.open(daemon.address) as runtime:
        assert runtime.call("exec", {"argv": ["true"]}).agent == "ada"
    with custody.open(daemon.address, token="bob's") as runtime:
        assert runtime.call("exec", {"argv": ["true"]}).agent == "bob"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9100",
        "ws://",
        "ws://a:b@127.0.0.1:1",
        "unix://host/path",
        "ws://h:99999",
        "ftp://x/y",
        "ws://h/?t=1",
    ],
)
def test_what_is_no_url_of_a_daemon_is_refused_before_anything_is_sent(url):
    with pytest.raises(UsageError):
        custody.open(url)


def test_roots_and_folders_are_the_daemons(daemon):
    with pytest.raises(UsageError, match="roots"):
        custody.open(daemon.address, roots=["/tmp"])
    with pytest.raises(UsageError, match="token"):
        custody.open(os.fspath("somewhere"), token="t")


@pytest.mark.long
def test_errors_come_back_as_what_they_were(daemon):
    with as_(daemon, "operator's") as runtime:
        with pytest.raises(NotFound):
            runtime.index.run("ffff")
        with pytest.raises(InvalidInput, match="A page has 1 to 1000 items"):
            runtime.index.calls(limit=0)
        with pytest.raises(InvalidInput):
            runtime.index.sql("DELETE FROM calls")
        with pytest.raises(UsageError, match="timeout"):
            runtime.call("exec", {"argv": ["true"]}, timeout=-1)
