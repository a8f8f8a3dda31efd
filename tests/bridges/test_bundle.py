"""Bundles: what is in them, that they check themselves, and what is left out."""

import errno
import io
import json
import os
import stat
import tarfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.bridges.bundles import (
    EVERYTHING,
    LARGE,
    STRANGE_TOOL,
    Opened,
    facts_of,
    faults_of,
    files_of,
    record_some,
    records_of,
    run_verify,
    witnesses_of,
)

import custody
from custody.bridges.bundle import Limits, Selection, check_bundle
from custody.bridges.bundle.witness import encoded
from custody.bridges.objects import call_object
from custody.checkpoints import Sealer
from custody.errors import CorruptJournal, ExportFailed, InvalidInput, NotFound, NotRecorded
from custody.records import CallAnswered, CallAsked, CallFinished, CallStarted, Decision, Request
from custody.tools import Origin


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = tmp_path_factory.mktemp("bundles") / "store"
    record_some(store)
    return store


@pytest.fixture(scope="module")
def opened(store):
    opened = Opened(store)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def bundle(opened):
    return opened.bundle()[0]


# -- what is in one -----------------------------------------------------------------------------------


def test_a_bundle_checks_itself_with_nothing_of_custodys(tmp_path, opened, bundle):
    code, said = run_verify(tmp_path, bundle, program=files_of(bundle)["verify.py"])

    assert code == 0, said
    assert "calls 6, records" in said
    assert "the key came with the bundle" in said


def test_with_the_stores_own_key_it_says_no_more_than_that_it_holds(tmp_path, store, bundle):
    code, said = run_verify(tmp_path, bundle, "--key", os.fspath(store / "keys" / "checkpoint.pub"))

    assert code == 0, said
    assert "the key came with the bundle" not in said


def test_each_call_is_there_as_every_door_shows_it(opened, bundle):
    shown = {call.id: json.loads(json.dumps(call_object(opened.index.call(call.id))))
             for call in opened.index.calls().items}  # fmt: skip

    witnesses = witnesses_of(files_of(bundle))

    assert {witness["id"]: witness for witness in witnesses.values()} == shown
    assert {witness["outcome"] for witness in witnesses.values()} == {"succeeded", "failed", "rejected"}
    assert [witness["host_before"] is None for witness in witnesses.values()].count(False) == 4


def test_all_records_of_a_call_and_of_its_run_are_there(opened, bundle):
    records = records_of(files_of(bundle))
    kinds = [record["kind"] for record in records]
    wanted = [opened.journal.read(*place) for place in opened.index.run_records("nightly")]

    assert [kinds.count(kind) for kind in (1, 2, 7)] == [1, 1, 1]
    assert kinds.count(5) == 5
    assert kinds.count(6) == 6
    assert {(one.shard, one.sequence) for one in wanted} < {
        (one["shard"], one["sequence"]) for one in records
    }
    names = {opened.index.describe(one).get("name") for one in wanted[3:]}
    assert names == {"app.note", "run.model"}


def test_large_values_lie_beside_the_records_unpacked(bundle):
    files = files_of(bundle)
    blobs = {name: data for name, data in files.items() if name.startswith("blobs/")}

    assert len(blobs) == facts_of(files)["blobs"] >= 1
    assert any(LARGE.encode() in data for data in blobs.values())


def test_what_was_redacted_is_in_no_byte(bundle):
    assert all(b"geheim" not in data for data in files_of(bundle).values())


def test_the_same_records_and_checkpoint_make_the_same_bytes(opened, bundle):
    assert opened.bundle()[0] == bundle


def test_its_files_are_plain_sorted_and_private_to_nobody(bundle):
    with tarfile.open(fileobj=io.BytesIO(bundle)) as tar:
        members = tar.getmembers()

    assert [member.name for member in members] == sorted(member.name for member in members)
    assert all(member.isreg() and (member.uid, member.gid, member.uname) == (0, 0, "") for member in members)
    assert all(stat.S_IMODE(member.mode) == 0o644 for member in members)
    assert all(member.mtime > 1_700_000_000 for member in members)


def test_a_strange_name_of_a_tool_leads_nowhere_and_is_told_from_others(bundle):
    named = [name for name, call in witnesses_of(files_of(bundle)).items() if call["tool"] == STRANGE_TOOL]

    assert len(named) == 1
    assert named[0].count("/") == 1
    assert len(named[0].removeprefix("witnesses/")) <= 100


@given(st.lists(st.text(max_size=80), min_size=2, max_size=2, unique=True))
def test_no_two_names_of_tools_become_one(names):
    first, second = map(encoded, names)

    assert first != second
    assert not {"/", "\0", " "} & set(first)


def test_the_records_of_an_ask_and_its_answer_are_there_and_checked(tmp_path):
    store = tmp_path / "store"
    record_some(store)
    opened = Opened(store)
    call_id = b"12345678"
    ask = Decision("ask", "rule", "who knows", "careful")
    request = Request(run_id=None, position=None, tool="t", effect="write", level="none", decision=ask,
                      asked_at_us=1_790_000_000_000_000)  # fmt: skip
    recorder = opened.recorder
    for leaf, said, fields in (
        (CallAsked, {"arguments": {"x": 1}}, {"request": request}),
        (CallAnswered, {}, {"at_us": 1_790_000_000_000_001, "decision": Decision("allow", "person", "fine")}),
        (CallStarted, {}, {"at_us": 1_790_000_000_000_002, "monotonic_ns": 5}),
        (CallFinished, {"result": 3}, {"at_us": 1_790_000_000_000_003, "outcome": "succeeded"}),
    ):
        recorder.append(recorder.draft(leaf, said, call_id=call_id, **fields))

    bundle, made = opened.bundle(Selection(tool="t"))
    opened.close()

    assert (made.calls, made.records) == (1, 4)
    assert faults_of(bundle) == []
    (witness,) = witnesses_of(files_of(bundle)).values()
    assert witness["decision"]["by"] == "person"


def test_actions_of_a_proposal_and_a_call_told_of_afterwards_are_there_and_checked(tmp_path):
    no = Decision("deny", "rule", "not there", rule="no_production", param="host")
    origin = Origin(proposal_id="p", action_id="a", attempt=2, connection="c1", guards=(lambda _: no,))
    with custody.open(tmp_path / "store") as runtime:
        runtime.call("exec", {"argv": ["true"]}, origin=origin)
    opened = Opened(tmp_path / "store")
    request = Request(run_id=None, position=None, tool="drive_cli", effect="unknown", level="none",
                      decision=Decision("allow", "nobody", "run by its caller"), asked_at_us=5,
                      proposal_id="p", action_id="b", attempt=1)  # fmt: skip
    said = {"prompt": "paint the shed", "arguments": {"cli": "x"}, "result": {"exit_code": 0}}
    opened.recorder.append(
        opened.recorder.draft(
            CallFinished, said, call_id=b"87654321", request=request, at_us=9, outcome="succeeded",
            source="observed", passed=True,
        )
    )  # fmt: skip

    bundle, made = opened.bundle()
    opened.close()

    assert made.calls == 2
    assert faults_of(bundle) == []
    told, denied = (witness for _, witness in sorted(witnesses_of(files_of(bundle)).items()))
    assert (told["prompt"], told["started_at"], told["action_id"]) == (
        "paint the shed",
        told["asked_at"],
        "b",
    )
    assert (denied["decision"]["param"], denied["proposal_id"], denied["attempt"]) == ("host", "p", 2)


ANY_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats() | st.text(max_size=20)
    | st.binary(max_size=20) | st.datetimes() | st.sets(st.integers(), max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(ANY_VALUE, ANY_VALUE), min_size=1, max_size=12))
def test_whatever_was_said_a_witness_agrees_with_its_records(tmp_path_factory, values):
    store = tmp_path_factory.mktemp("any") / "store"
    with custody.open(store) as runtime, runtime.run("say") as run:
        for asked, answered in values:
            with run.observe("say", {"asked": asked}) as call:
                call.result = answered
    opened = Opened(store)
    bundle, made = opened.bundle()
    opened.close()

    assert made.calls == len(values)
    assert faults_of(bundle) == []


# -- which calls --------------------------------------------------------------------------------------


def tools_of(opened: Opened, selection: Selection) -> list[str]:
    bundle, made = opened.bundle(selection)
    return [call["tool"] for call in witnesses_of(files_of(bundle)).values()] if made.calls else []


def test_the_newest_come_first(opened):
    assert tools_of(opened, Selection(last=2)) == [STRANGE_TOOL, "odd"]


def test_a_tools_name_is_exact_unless_a_pattern_is_asked_for(opened):
    assert tools_of(opened, Selection(tool="no_such_tool")) == ["no_such_tool"]
    assert tools_of(opened, Selection(tool="no_such")) == []
    assert tools_of(opened, Selection(tool="no_such*")) == []
    assert tools_of(opened, Selection(tool="glob:no_such*")) == ["no_such_tool"]
    assert tools_of(opened, Selection(tool="glob:*", last=3)) == ["no_such_tool", STRANGE_TOOL, "odd"]


def test_a_run_is_named_as_everywhere(opened):
    assert len(tools_of(opened, Selection(run="nightly"))) == 5
    with pytest.raises(NotFound):
        opened.bundle(Selection(run="nobody's"))


def test_to_somebody_bounded_the_runs_of_others_are_not_there(opened):
    mine = Selection(only_session="s1")
    assert len(tools_of(opened, mine)) == 6
    assert tools_of(opened, Selection(only_session="s2")) == []
    assert tools_of(opened, Selection(only_session="s2", run="nightly")) == []
    assert tools_of(opened, Selection(only_session="s2", run="nobody's")) == []
    assert tools_of(opened, Selection(only_run="00" * 16, run="nightly")) == []


def test_a_call_that_names_a_session_is_not_handed_out_with_a_run_of_another(tmp_path):
    store = tmp_path / "store"
    with custody.open(store) as runtime:
        with runtime.run("theirs", session="theirs"):
            runtime.call("no_such_tool", {}, session="mine")
        runtime.call("no_such_tool", {}, session="mine")
    opened = Opened(store)

    assert len(tools_of(opened, Selection(only_session="mine"))) == 1
    opened.close()


@pytest.mark.parametrize("selection", [Selection(last=0), Selection(tool=""), Selection(tool="glob:")])
def test_a_selection_nobody_can_have_meant_is_refused(opened, selection):
    with pytest.raises(InvalidInput):
        opened.bundle(selection)


def test_nothing_that_matches_is_no_bundle(opened):
    bundle, made = opened.bundle(Selection(tool="nobody"))

    assert (bundle, made.calls, made.omitted) == (b"", 0, 0)


# -- bounds -------------------------------------------------------------------------------------------


def test_no_more_calls_than_allowed_and_the_others_are_counted(opened):
    bundle, made = opened.bundle(limits=Limits(count_max=2))

    assert (made.calls, made.omitted) == (2, 4)
    assert facts_of(files_of(bundle))["omitted"] == 4
    assert faults_of(bundle) == []


def test_no_more_bytes_than_allowed_and_the_others_are_counted(opened, bundle):
    room = len(bundle) - 1
    smaller, made = opened.bundle(limits=Limits(bytes_max=room))

    assert len(smaller) == made.bytes <= room
    assert 0 < made.calls < 6
    assert made.calls + made.omitted == 6
    assert faults_of(smaller) == []


def test_where_not_one_call_fits_there_is_none(opened):
    assert opened.bundle(limits=Limits(bytes_max=100))[1].omitted == 6


def test_a_large_bundle_waits_in_a_scratch_file_that_nobody_sees(tmp_path, opened, monkeypatch):
    monkeypatch.setattr("custody.bridges.bundle.making.SCRATCH_BYTES_MAX", 1_000)
    scratch, out = tmp_path / "scratch", io.BytesIO()
    scratch.mkdir()

    opened.maker.make(EVERYTHING, Limits(), out, folder=os.fspath(scratch))

    assert faults_of(out.getvalue()) == []
    assert list(scratch.iterdir()) == []


# -- what is gone, and what is new --------------------------------------------------------------------


def test_a_purged_blob_is_counted_and_the_rest_holds(tmp_path):
    store = tmp_path / "store"
    record_some(store)
    for blob in (store / "blobs").rglob("*"):
        if blob.is_file():
            blob.unlink()
    opened = Opened(store)
    bundle, made = opened.bundle()
    opened.close()

    assert (made.blobs, made.blobs_gone) == (0, 1)
    assert faults_of(bundle) == []


def test_a_damaged_blob_is_named_and_no_bundle_made(tmp_path):
    store = tmp_path / "store"
    record_some(store)
    blob = next(path for path in (store / "blobs").rglob("*") if path.is_file())
    blob.write_bytes(b"something else")
    opened = Opened(store)

    with pytest.raises(custody.CustodyError) as caught:
        opened.bundle()

    assert blob.name in str(caught.value)
    opened.close()


def test_what_another_process_has_just_written_is_left_out_and_counted(tmp_path):
    store = tmp_path / "store"
    record_some(store)
    with custody.open(store) as runtime, runtime.run("now", name="now") as run:
        run.call("no_such_tool", {})
        opened = Opened(store)  # another journal: the writer's shard is held
        bundle, made = opened.bundle()
        opened.close()

    assert made.unsigned + made.calls == 7
    assert faults_of(bundle) == []


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), OSError(errno.EIO, "bad"), NotRecorded()])
def test_a_store_that_cannot_be_written_is_bundled_as_far_as_it_is_signed(tmp_path, monkeypatch, error):
    store = tmp_path / "store"
    record_some(store)
    opened = Opened(store)
    opened.bundle()
    opened.close()

    def broken(*_, **__):
        raise error

    monkeypatch.setattr(Sealer, "seal", broken)
    record_some(store, name="later")
    opened = Opened(store)
    bundle, made = opened.bundle()
    opened.close()

    assert (made.calls, made.unsigned) == (6, 6)
    assert faults_of(bundle) == []


def test_a_bundle_that_does_not_hold_is_not_handed_out(opened, monkeypatch):
    monkeypatch.setattr(opened.evidence, "path", lambda *_: [b"x" * 32])

    with pytest.raises(ExportFailed, match="does not hold"):
        opened.bundle()


def test_beside_a_damaged_shard_the_others_are_bundled(tmp_path):
    store = tmp_path / "store"
    with custody.open(store) as runtime, runtime.run("first", name="first") as run:
        run.call("no_such_tool", {})
        record_some(store, name="second")  # in another shard: the first is held
    opened = Opened(store)
    opened.bundle()
    stored = opened.journal.read(*opened.index.run_records("first")[0])
    opened.close()
    with (store / "journal" / f"{stored.shard:04d}" / f"{stored.segment:08d}.seg").open("r+b") as file:
        file.seek(stored.offset + 40)
        file.write(b"damage")
    opened = Opened(store)

    bundle, made = opened.bundle(Selection(run="second"))

    assert made.calls == 5
    assert faults_of(bundle) == []
    with pytest.raises(CorruptJournal):
        opened.bundle(Selection(run="first"))
    opened.close()


def test_after_the_key_was_changed_a_bundle_is_checked_with_either_list(tmp_path):
    store = tmp_path / "store"
    record_some(store)
    opened = Opened(store)
    before = opened.bundle()[0]
    known_before = tuple(opened.evidence.verifiers())
    assert Sealer(opened.disk, opened.journal, opened.record).rotate_key(wait_seconds=10) is not None
    after, _ = opened.bundle()
    known_after = tuple(opened.evidence.verifiers())
    opened.close()

    assert len(known_after) == len(known_before) + 1 == 2
    assert faults_of(before, known_after) == faults_of(after, known_after) == []
    assert faults_of(after, known_before) == ["BUNDLE is not signed by a key that is known here"]


# -- zstd ---------------------------------------------------------------------------------------------


def test_one_packed_with_zstd_is_checked_by_custody_and_declined_by_its_own_program(tmp_path, opened):
    bundle, made = opened.bundle(zstd=True)

    assert check_bundle(io.BytesIO(bundle))["calls"] == made.calls == 6
    assert faults_of(bundle) == []
    code, said = run_verify(tmp_path, bundle)
    assert code == 2
    assert "zstd -d" in said


def test_unpacked_by_zstd_it_is_checked_by_its_own_program(tmp_path, opened):
    import zstandard

    bundle, _ = opened.bundle(zstd=True)

    assert (
        run_verify(
            tmp_path, zstandard.ZstdDecompressor().decompressobj(read_across_frames=True).decompress(bundle)
        )[0]
        == 0
    )
