"""The tool `witness_download`: who gets what, how much of it, and what the record says of that."""

import asyncio
import base64
import hashlib
import os
import shutil
import threading

import pytest
from tests.bridges.bundles import faults_of, files_of, record_some, run_verify, witnesses_of
from tests.settings_for_tests import never_short_of_resources

import custody
from custody.bridges.bundle import BundleMaker, WitnessDownload

TOOL = "witness_download"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Two sessions, and calls of none."""
    folder = tmp_path_factory.mktemp("recorded")
    store = folder / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", os.fspath(folder / "config"))
        never_short_of_resources(folder / "config")
        allow(folder / "config")
        record_some(store, session="s1", name="nightly")
        record_some(store, session="s2", name="other")
        record_some(store, session=None, name="loose")
    return store


@pytest.fixture
def store(recorded, tmp_path, monkeypatch):
    """A copy of what was recorded, and settings that name one caller."""
    config = tmp_path / "config"
    monkeypatch.setenv("XDG_CONFIG_HOME", os.fspath(config))
    never_short_of_resources(config)
    allow(config)
    return shutil.copytree(recorded, tmp_path / "store")


def allow(config, more: str = "") -> None:
    with (config / "custody" / "custody.toml").open("a") as file:
        file.write(f'\n[bundles]\ncallers = ["auditor"]\n{more}\n')


def ask(store, arguments=None, *, caller="auditor", session="s1"):
    with custody.open(store, caller=caller, session=session) as runtime:
        return runtime.call(TOOL, arguments or {})


def sessions_in(call) -> set[str | None]:
    bundle = base64.b64decode(call.result["data"])
    assert faults_of(bundle) == []
    return {witness["session_id"] for witness in witnesses_of(files_of(bundle)).values()}


# -- who may ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("caller", [None, "ada", "Auditor", "auditor2", "*"])
def test_who_is_not_named_is_refused_and_that_is_recorded(store, caller):
    call = ask(store, {"last_n": 1}, caller=caller)

    assert (call.outcome, call.result) == ("rejected", None)
    assert (call.decision.verdict, call.decision.by, call.decision.rule) == ("deny", "rule", TOOL)
    with custody.open(store) as runtime:
        recorded = runtime.index.call(call.id)
    assert (recorded.outcome, recorded.caller, recorded.arguments) == ("rejected", caller, {"last_n": 1})


def test_who_is_named_gets_the_calls_of_their_own_session_alone(store):
    call = ask(store)

    assert call.outcome == "succeeded"
    assert sessions_in(call) == {"s1"}


@pytest.mark.parametrize("run", ["other", "loose", "nobody's", "00"])
def test_the_run_of_somebody_else_is_as_one_that_is_not_there(store, run):
    call = ask(store, {"run": run})

    assert call.outcome == "succeeded"
    assert call.result == {"count": 0, "message": "No call matches.", "omitted": 0}


def test_in_a_run_without_a_session_there_is_that_run_alone(store):
    with custody.open(store, caller="auditor") as runtime, runtime.run("look") as run:
        run.call("no_such_tool", {})
        call = run.call(TOOL, {})
    bundle = base64.b64decode(call.result["data"])

    assert {witness["run_id"] for witness in witnesses_of(files_of(bundle)).values()} == {run.id}
    assert call.result["count"] == 1


def test_what_a_call_says_of_its_session_does_not_count_where_its_run_says_otherwise(store):
    with custody.open(store, caller="auditor") as runtime, runtime.run("look", session="s1"):
        call = runtime.call(TOOL, {}, session="s2")

    assert sessions_in(call) == {"s1"}


def test_in_no_session_and_no_run_there_is_nothing_to_have(store):
    call = ask(store, session=None)

    assert (call.outcome, call.decision.rule) == ("rejected", TOOL)


def test_a_rule_that_errs_says_no(store, monkeypatch):
    def broken(*_):
        raise RuntimeError("broken")

    monkeypatch.setattr(WitnessDownload, "permit", broken)
    call = ask(store)

    assert (call.outcome, call.decision.by) == ("rejected", "error")


# -- what they get ------------------------------------------------------------------------------------


def test_a_bundle_comes_as_text_that_checks_itself(tmp_path, store):
    result = ask(store, {"last_n": 2}).result
    bundle = base64.b64decode(result["data"], validate=True)

    assert (result["count"], result["format"], result["encoding"], result["omitted"]) == (
        2,
        "tar.gz",
        "base64",
        0,
    )
    assert result["bytes"] == len(bundle)
    code, said = run_verify(tmp_path, bundle, "--key", os.fspath(store / "keys" / "checkpoint.pub"))
    assert code == 0, said


def test_the_newest_come_first_by_exact_name_or_pattern(store):
    def tools(**arguments):
        result = ask(store, arguments).result
        files = files_of(base64.b64decode(result["data"])) if result["count"] else {}
        return [witness["tool"] for witness in witnesses_of(files).values()]

    assert tools(tool_filter="odd", last_n=1) == ["odd"]
    assert tools(tool_filter="no_such") == []
    assert tools(tool_filter="glob:no_such*") == ["no_such_tool"]
    assert tools(tool_filter="no_such_tool", run="nightly") == ["no_such_tool"]


def test_nothing_that_matches_is_said_in_a_message(store):
    assert ask(store, {"tool_filter": "nobody"}).result == {
        "count": 0, "message": "No call matches.", "omitted": 0
    }  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [{"last_n": 0}, {"last_n": "all"}, {"tool_filter": ""}, {"tool_filter": "glob:"}, {"run": ""}, {"x": 1}],
)
def test_arguments_that_make_no_sense_are_refused(store, arguments):
    call = ask(store, arguments)

    assert (call.outcome, call.decision.by) == ("rejected", "schema")


def test_no_more_calls_or_bytes_than_the_settings_say(tmp_path, store):
    allow_file = tmp_path / "config" / "custody" / "custody.toml"
    allow_file.write_text(allow_file.read_text() + "count_max = 2\n")
    assert (ask(store).result["count"], ask(store).result["omitted"]) == (2, 5)

    allow_file.write_text(allow_file.read_text() + "bytes_max = 1000\n")
    result = ask(store).result
    assert result["count"] == 0
    assert "fits" in result["message"]


# -- what the record says of it -----------------------------------------------------------------------


def test_the_bundle_itself_is_not_recorded_again(store):
    sizes = []
    for _ in range(4):
        call = ask(store)
        sizes.append(call.result["bytes"])
        bundle = base64.b64decode(call.result["data"])
        with custody.open(store) as runtime:
            recorded = runtime.index.call(call.id)
        assert recorded.result == {**call.result, "data": None}
        assert recorded.result["sha256"] == hashlib.sha256(bundle).hexdigest()
        journal = b"".join(path.read_bytes() for path in (store / "journal").rglob("*.seg"))
        assert call.result["data"][2000:2100].encode() not in journal
        assert bundle[2000:2100] not in journal
    assert sizes[-1] < sizes[0] * 1.5
    assert sum(1 for path in (store / "blobs").rglob("*") if path.is_file()) == 1


def test_a_bundle_does_not_hold_the_call_that_asked_for_it_but_those_before(store):
    first, second = ask(store), ask(store)

    held = witnesses_of(files_of(base64.b64decode(second.result["data"]))).values()
    assert {witness["id"] for witness in held if witness["tool"] == TOOL} == {first.id}


# -- off the event loop -------------------------------------------------------------------------------


def test_other_calls_go_on_while_a_bundle_is_made(store, monkeypatch):
    going, may_end = threading.Event(), threading.Event()
    make = BundleMaker.make

    def slowly(self, *arguments, **named):
        going.set()
        assert may_end.wait(30)
        return make(self, *arguments, **named)

    monkeypatch.setattr(BundleMaker, "make", slowly)

    async def both():
        async with custody.open(store, caller="auditor", session="s1") as runtime:
            download = asyncio.create_task(runtime.call(TOOL, {}))
            await asyncio.to_thread(going.wait, 30)
            other = await runtime.call("no_such_tool", {})
            may_end.set()
            return other, await download

    other, download = asyncio.run(both())
    assert other.outcome == "rejected"
    assert download.result["count"] > 0


def test_a_store_in_memory_has_bundles_too(monkeypatch, store):
    with custody.open(":memory:", caller="auditor", session="s") as runtime:
        runtime.call("no_such_tool", {})
        result = runtime.call(TOOL, {}).result

    assert faults_of(base64.b64decode(result["data"])) == []


def test_several_at_once_beside_calls_that_are_being_recorded_all_hold(store):
    async def all_of_them():
        async with custody.open(store, caller="auditor", session="s1") as runtime:
            downloads = [runtime.call(TOOL, {}) for _ in range(4)]
            others = [runtime.call("no_such_tool", {"n": n}) for n in range(20)]
            ended = await asyncio.gather(*downloads, *others)
            return ended[:4]

    for call in asyncio.run(all_of_them()):
        assert call.outcome == "succeeded", call.error
        assert faults_of(base64.b64decode(call.result["data"])) == []


def test_a_store_that_cannot_sign_hands_nothing_out(store):
    ask(store)
    (store / "keys" / "checkpoint.key").unlink()

    call = ask(store)

    assert (call.outcome, call.result) == ("failed", None)
    assert "key" in call.error["message"]
