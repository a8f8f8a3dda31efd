"""A purge takes what was said and nothing else, says so first, and leaves every leaf where it was."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.index.conftest import call_id, run_id, us
from tests.retention.stores import Model, Purgeable

from custody.errors import NotRecorded, PurgeRefused
from custody.index import CallFilter, Index
from custody.journal import Cursor, Stored, sha256
from custody.journal.purging import Intent
from custody.recorder import Recorder
from custody.records import Event, Redacted, decode_leaf
from custody.redaction import Redactor
from custody.retention import (
    Selection,
    carry_out,
    finish_purges,
    held_runs,
    hold_run,
    plan_purge,
    release_run,
)

SECRET = "walnut-4711"


@pytest.fixture(params=["memory", "real"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Purgeable]:
    store = Purgeable(None if request.param == "memory" else str(tmp_path / "store"))
    yield store
    store.close()


def tombstones(store: Purgeable) -> list[dict[str, Any]]:
    leaves = (decode_leaf(stored.kind, stored.leaf) for stored in store.records())
    events = (leaf for leaf in leaves if isinstance(leaf, Event) and leaf.name == "store.purged")
    return [leaf.data or {} for leaf in events]


def recorder_of(store: Purgeable) -> Recorder:
    return store.means().make_recorder()


def test_what_was_said_is_gone_and_the_tree_is_the_same(store: Purgeable) -> None:
    store.start_run(1, intent="first")
    store.call(1, 1, run=1, arguments={"text": SECRET}, result="done")
    store.call(2, 2, run=1, arguments={"text": "harmless"}, result="kept")
    store.writer.sync()
    leaves, roots = [stored.leaf for stored in store.records()], store.roots()
    done = store.purge(text=SECRET)
    assert (done.records, done.index_clean) == (2, True)
    assert not store.holds(SECRET)
    assert [stored.leaf for stored in store.records()][: len(leaves)] == leaves
    assert store.roots().keys() == roots.keys()
    assert [said["result"] for said in store.said() if "result" in said] == ["kept"]
    assert {"intent": "first"} in store.said()
    index = store.index()
    assert index.call("0001").outcome == "succeeded"
    assert (index.call("0001").arguments, index.call("0001").result) == (None, None)
    assert index.call("0002").result == "kept"


def test_no_word_of_it_is_left_in_the_index_while_others_have_it_open(tmp_path: Path) -> None:
    store = Purgeable(str(tmp_path / "store"))
    other = store.index()
    store.call(1, 1, arguments={"text": SECRET, "word": "filbertine"})
    store.call(2, 2, arguments={"text": "harmless"})
    assert len(other.calls(CallFilter(text="filbertine")).items) == 1
    assert store.holds("filbertine")
    store.purge(text=SECRET)
    assert not store.holds("filbertine")
    assert other.calls(CallFilter(text="filbertine")).items == []
    assert len(other.calls(CallFilter(text="harmless")).items) == 1
    assert not store.holds("filbertine")
    store.close()


def test_the_statement_says_what_and_why_but_not_the_text(store: Purgeable) -> None:
    store.call(1, 1, arguments={"text": SECRET})
    store.writer.sync()
    means = store.means()
    plan = plan_purge(store.writer, Selection(text=SECRET))
    done = carry_out(means, plan, reason="asked by its owner")
    (stated,) = tombstones(store)
    assert stated["purge_id"] == done.purge_id
    assert (stated["by"], stated["reason"]) == ({"match": True}, "asked by its owner")
    assert (stated["shards"], stated["records"]) == ({"1": [[1, 2]]}, 2)
    assert not store.holds(SECRET)


def test_a_reason_that_repeats_the_text_is_refused(store: Purgeable) -> None:
    store.call(1, 1, arguments={"text": SECRET})
    store.writer.sync()
    plan = plan_purge(store.writer, Selection(text=SECRET))
    with pytest.raises(PurgeRefused):
        carry_out(store.means(), plan, reason=f"it said {SECRET}")
    assert store.holds(SECRET)


def test_a_text_in_a_blob_is_found_and_the_blob_goes(store: Purgeable) -> None:
    store.start_call(1, 1, arguments=store.put_blob({"text": SECRET * 3_000}))
    store.finish_call(1, 2, result="short")
    done = store.purge(text=SECRET)
    assert (done.blobs, done.records) == (1, 2)
    assert not store.holds(SECRET)


def test_a_blob_that_another_record_names_stays(store: Purgeable) -> None:
    shared = {"text": "x" * 20_000}
    store.call(1, 1, arguments=store.put_blob(shared))
    store.call(2, 50, arguments=store.put_blob(shared))
    assert store.purge(before_us=us(10)).blobs == 0
    assert store.index().call("0002").arguments == shared
    assert store.purge(before_us=us(100)).blobs == 1


def test_a_blob_that_is_named_again_while_a_purge_is_under_way_stays(store: Purgeable) -> None:
    shared = {"text": "x" * 20_000}
    store.call(1, 1, arguments=store.put_blob(shared))
    plan = store.plan(before_us=us(10))
    assert len(plan.blobs) == 1
    store.call(2, 50, arguments=store.put_blob(shared))
    assert carry_out(store.means(), plan).blobs == 0
    assert store.index().call("0002").arguments == shared


def test_a_blob_whose_record_never_came_goes_with_the_next_purge(store: Purgeable) -> None:
    store.put_blob({"text": SECRET * 3_000})
    store.call(1, 1, arguments="said")
    assert store.purge(before_us=us(10)).blobs == 1
    assert not store.holds(SECRET)


def test_a_writer_puts_a_blob_again_that_a_purge_took_before_its_record_came(store: Purgeable) -> None:
    value = {"text": "y" * 40_000}
    recorder = recorder_of(store)
    draft = recorder.draft_event("app.note", value)
    (blob,) = draft.blobs
    put = store.writer.put_blob

    def put_and_purge(data: Redacted) -> bytes:
        digest = put(data)
        store.writer.put_blob = put  # type: ignore[method-assign]
        store.call(9, 1, arguments="old")
        assert store.purge(before_us=us(5)).blobs == 1
        assert store.writer.get_blob(digest) is None
        return digest

    store.writer.put_blob = put_and_purge  # type: ignore[method-assign]
    recorder.append(draft)
    store.writer.sync()
    assert store.writer.get_blob(sha256(blob)) == blob
    (event,) = store.index().events(name="app.note").items
    assert event.data == value


def test_before_takes_what_had_ended_and_leaves_what_had_not(store: Purgeable) -> None:
    store.call(1, 1, arguments="old")
    store.start_call(2, 2, arguments="still running")
    store.call(3, 50, arguments="new")
    store.purge(before_us=us(10))
    assert [said["arguments"] for said in store.said() if "arguments" in said] == ["still running", "new"]


def test_a_run_is_purged_with_its_steps_and_events(store: Purgeable) -> None:
    for number in (1, 2):
        store.start_run(number, intent=f"intent {number}")
        store.call(number, 1, run=number, arguments=f"arguments {number}")
        store.step(10 + number, number, text=f"text {number}")
        store.event(20 + number, "run.error", data=f"event {number}", run_id=run_id(number))
        store.finish_run(number, 9, output=f"output {number}")
    store.purge(run_id=run_id(1))
    for what in ("intent", "arguments", "text", "event", "output"):
        assert not store.holds(f"{what} 1")
        assert store.holds(f"{what} 2")


def test_all_selectors_must_hold(store: Purgeable) -> None:
    store.call(1, 1, arguments=SECRET)
    store.call(2, 50, arguments=SECRET)
    store.call(3, 1, arguments="other")
    store.purge(text=SECRET, before_us=us(10))
    assert [said["arguments"] for said in store.said() if "arguments" in said] == [SECRET, "other"]


def test_what_scanners_find_goes_and_the_statement_has_rules_and_counts(store: Purgeable) -> None:
    store.call(1, 1, arguments={"a": SECRET}, result="x")
    store.call(2, 2, arguments={"a": "plain"}, result="x")

    def find(said: Any) -> dict[str, int]:
        return {"walnut": 1} if SECRET in str(said) else {}

    store.purge(find=find)
    (stated,) = tombstones(store)
    assert (stated["by"], stated["rules"]) == ({"secrets": True}, {"walnut": 1})
    assert not store.holds(SECRET)
    assert {"arguments": {"a": "plain"}} in store.said()


def test_nothing_of_a_held_run_is_purged_until_it_is_released(store: Purgeable) -> None:
    for number in (1, 2):
        store.start_run(number, intent=f"intent {number}")
        store.call(number, 1, run=number, arguments=SECRET)
        store.finish_run(number, 9)
    hold_run(store.writer, recorder_of(store), run_id(1), "case 4711")
    (hold,) = held_runs(store.index())
    assert (hold.run_id, hold.reason) == (run_id(1).hex(), "case 4711")
    plan = store.plan(before_us=us(100))
    assert plan.left.held == 4
    store.purge(before_us=us(100))
    assert store.holds("intent 1") and not store.holds("intent 2")
    release_run(store.writer, recorder_of(store), run_id(1), None)
    assert held_runs(store.index()) == []
    store.purge(before_us=us(100))
    assert not store.holds("intent 1") and not store.holds(SECRET)


def test_a_hold_waits_for_a_purge_that_is_under_way(
    store: Purgeable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("custody.retention.holds.LOCK_WAIT_SECONDS", 0.05)
    store.start_run(1)
    lock = store.writer.purging.lock()
    assert lock is not None
    with pytest.raises(PurgeRefused):
        hold_run(store.open_writer(), recorder_of(store), run_id(1), None)
    lock.release()
    hold_run(store.writer, recorder_of(store), run_id(1), None)


def test_undo_data_of_purged_calls_is_forgotten(store: Purgeable) -> None:
    store.call(1, 1, arguments="old")
    store.call(2, 50, arguments="new")
    store.purge(before_us=us(10))
    assert store.undone == [call_id(1)]


def test_a_text_that_stands_in_leaves_is_counted_there(store: Purgeable) -> None:
    store.call(1, 1, arguments="x", tool=SECRET)
    assert store.plan(text=SECRET).leaves_hit == 1


def test_what_is_not_durable_yet_is_left_and_counted(tmp_path: Path) -> None:
    store = Purgeable(str(tmp_path / "store"))
    lazy = store.open_writer(flush_seconds=3600.0)
    lazy.lease()
    store.call_by(lazy, 1, 1, "old")
    other = store.open_writer()
    other.lease()
    plan = plan_purge(other, Selection(before_us=us(10)))
    assert (plan.records, plan.left.undurable) == (0, 2)
    lazy.sync()
    store.call_by(lazy, 2, 60, "new")
    plan = plan_purge(other, Selection(before_us=us(10)))
    assert (plan.records, plan.left.undurable) == (2, 0)
    store.close()


def test_an_idle_writer_says_that_its_last_record_is_durable(tmp_path: Path) -> None:
    """Else what it said last could be purged only after it has said more."""
    from tests.cli.conftest import eventually

    store = Purgeable(str(tmp_path / "store"))
    idle = store.open_writer(flush_seconds=0.001)
    store.call_by(idle, 1, 1, "old")
    other = store.open_writer()
    other.lease()
    eventually(lambda: plan_purge(other, Selection(before_us=us(10))).records == 2)
    store.close()


def test_a_purge_takes_from_the_shard_of_a_writer_that_goes_on(tmp_path: Path) -> None:
    store = Purgeable(str(tmp_path / "store"))
    active = store.open_writer()
    for number in range(1, 60):
        store.call_by(active, number, number, f"{SECRET} {number}" if number % 2 else "plain")
    active.sync()
    store.call_by(active, 60, 60, "after")
    store.purge(text=SECRET)
    for number in range(61, 90):
        store.call_by(active, number, number, "more")
    active.close()
    assert not store.holds(SECRET)
    said = [said["arguments"] for said in store.said() if "arguments" in said]
    assert said == ["plain"] * 29 + ["after"] + ["more"] * 29
    store.close()


def test_a_dry_run_says_exactly_what_the_purge_then_does(store: Purgeable) -> None:
    for number in range(1, 20):
        value = store.put_blob({"n": number, "t": SECRET * 900}) if number % 5 == 0 else f"{SECRET} {number}"
        store.call(number, number, arguments=value)
    plan = store.plan(before_us=us(10))
    before = [bytes(stored.payload) for stored in store.records()]
    assert [bytes(stored.payload) for stored in store.records()] == before
    done = store.purge(before_us=us(10))
    assert (plan.records, plan.payload_bytes, len(plan.blobs)) == (
        done.records,
        done.payload_bytes,
        done.blobs,
    )
    stated = tombstones(store)
    assert sum(part["records"] for part in stated) == plan.records
    assert store.plan(before_us=us(10)).empty


def test_a_purge_that_finds_nothing_leaves_no_trace(store: Purgeable) -> None:
    store.call(1, 50, arguments="new")
    store.writer.sync()
    before = len(store.records())
    assert store.purge(before_us=us(10)).purge_id is None
    assert len(store.records()) == before
    assert store.writer.purging.begun() == []


def test_a_long_list_becomes_several_events(store: Purgeable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("custody.retention.statement.RANGES_MAX", 3)
    for number in range(1, 21):
        store.call(number, number, arguments=SECRET if number % 2 else "plain")
    store.purge(text=SECRET)
    stated = tombstones(store)
    assert [len(part["shards"]["1"]) for part in stated] == [3, 3, 3, 1]
    assert len({part["purge_id"] for part in stated}) == 1
    assert sum(part["records"] for part in stated) == 20


def test_two_purges_at_once_are_one_and_a_refusal(store: Purgeable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("custody.retention.holds.LOCK_WAIT_SECONDS", 0.05)
    store.call(1, 1, arguments="old")
    lock = store.writer.purging.lock()
    assert lock is not None
    with pytest.raises(PurgeRefused, match="Another process"):
        store.purge(before_us=us(10))
    lock.release()
    assert store.purge(before_us=us(10)).records == 2


def test_a_purge_whose_statement_cannot_be_kept_touches_nothing(store: Purgeable) -> None:
    store.call(1, 1, arguments=SECRET)
    store.writer.sync()
    plan = plan_purge(store.writer, Selection(text=SECRET))
    means = store.means()

    class Refusing(Recorder):
        def event(self, *_: Any, **__: Any) -> Any:
            raise NotRecorded

    refusing = Refusing(store.writer, Redactor(b"k" * 32), recorder_of(store).ids)
    from msgspec.structs import replace

    with pytest.raises(NotRecorded):
        carry_out(replace(means, make_recorder=lambda: refusing), plan)
    assert store.holds(SECRET)
    assert store.writer.purging.begun() == []


def test_an_intent_without_a_statement_is_forgotten(store: Purgeable) -> None:
    store.call(1, 1, arguments=SECRET)
    store.writer.sync()
    shard, place = store.writer.here()
    store.writer.purging.begin(Intent("00" * 8, "purge", shard, place))
    assert finish_purges(store.means()) == 0
    assert store.writer.purging.begun() == []
    assert store.holds(SECRET)


def test_an_index_that_was_being_filled_from_before_the_purge_forgets_it_too(tmp_path: Path) -> None:
    """A catching-up that has read a payload and not yet folded it must not bring it back."""
    store = Purgeable(str(tmp_path / "store"))
    store.call(1, 1, arguments={"text": SECRET, "word": "filbertine"})
    for number in range(2, 40):
        store.call(number, number, arguments={"text": "harmless"})
    store.writer.sync()
    slow = store.index()
    slow.refresh()
    slow.forget()
    purged: list[bool] = []

    def purge_once(_: int) -> None:
        if not purged:
            purged.append(True)
            store.purge(text=SECRET)

    from custody.index import catch_up

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catch_up, "BATCH_RECORDS", 3)
        patch.setattr(catch_up, "FIRST_BATCH_RECORDS", 3)
        slow.refresh(purge_once)
    assert purged and not store.holds("filbertine")
    assert len(slow.calls(limit=100).items) == 39
    store.close()


def test_so_does_one_that_had_not_folded_anything_yet(tmp_path: Path) -> None:
    """Its watermarks are the same before and after: it is told by the tables, which are others."""
    store = Purgeable(str(tmp_path / "store"))
    store.call(1, 1, arguments={"text": SECRET, "word": "filbertine"})
    store.writer.sync()
    reader = store.open_writer()
    slow = Index(store.path, reader)
    slow.forget()
    follow, purged = reader.follow, [False]

    def follow_and_purge(cursor: Cursor | None = None) -> Iterator[Stored]:
        for stored in follow(cursor):
            if not purged[0]:
                purged[0] = True
                store.purge(text=SECRET)
            yield stored

    reader.follow = follow_and_purge  # type: ignore[method-assign,assignment]
    slow.refresh()
    assert purged[0] and not store.holds("filbertine")
    assert len(slow.calls().items) == 1
    slow.close()
    store.close()


Act = tuple[str, int, int]


@settings(max_examples=60)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("call"), st.integers(0, 2), st.integers(0, 3)),
            st.tuples(st.just("open"), st.integers(0, 2), st.integers(0, 3)),
            st.tuples(st.just("before"), st.integers(0, 30), st.just(0)),
            st.tuples(st.just("run"), st.integers(0, 2), st.just(0)),
            st.tuples(st.just("match"), st.integers(0, 3), st.just(0)),
            st.tuples(st.just("hold"), st.integers(0, 2), st.just(0)),
            st.tuples(st.just("release"), st.integers(0, 2), st.just(0)),
        ),
        max_size=25,
    )
)
def test_any_sequence_of_calls_holds_and_purges_leaves_what_a_model_leaves(acts: list[Act]) -> None:
    store, model = Purgeable(), Model()
    words = [f"kernel{number}nut" for number in range(4)]
    for number, (what, first, second) in enumerate(acts, 1):
        if what in ("call", "open"):
            model.said[number], model.run_of[number] = words[second], first
            store.start_call(number, number, arguments=f"{words[second]} of {number}", run=first)
            model.ended_at[number] = None
            if what == "call":
                store.finish_call(number, number + 0.5)
                model.ended_at[number] = number + 0.5
        elif what == "before":
            store.purge(before_us=us(first))
            model.purge(before=first)
        elif what == "run":
            store.purge(run_id=run_id(first))
            model.purge(run=first)
        elif what == "match":
            store.purge(text=words[first])
            model.purge(text=words[first])
        elif what == "hold":
            hold_run(store.writer, recorder_of(store), run_id(first), None)
            model.held.add(first)
        else:
            release_run(store.writer, recorder_of(store), run_id(first), None)
            model.held.discard(first)
    said = [said["arguments"] for said in store.said() if said.get("arguments")]
    assert said == [f"{model.said[number]} of {number}" for number in sorted(model.said)]
    for word in words:
        assert store.holds(word) == any(word in text for text in said)
    store.close()
