"""`custody purge` and `custody hold` as a person meets them."""

from typing import Any

import msgspec
import pytest
from tests.cli.conftest import Program
from tests.retention.stores import every_content

from custody.journal import Journal
from custody.journal.disk import RealDisk
from custody.recorder import Recorder
from custody.records import IdSource, Redacted
from custody.redaction import Redactor

SECRET = "walnut-4711"
AWS_KEY = "AKIA" + "Q3EGRI5TBEHYLXZ7"


def holds(custody: Program, text: str) -> bool:
    return any(text.encode() in data for data in every_content(f"{custody.store}", None))


def acted(custody: Program, *words: str, run: str | None = None) -> None:
    named = () if run is None else ("--run", run)
    assert custody("exec", *named, "--", "echo", *words).code == 0


def test_a_text_is_gone_from_every_byte_and_the_rest_is_still_shown(custody: Program) -> None:
    acted(custody, SECRET)
    acted(custody, "harmless")
    assert custody("calls", "--text", SECRET, "--json").json["items"]
    ran = custody("purge", "--match", SECRET, "--yes", "--json")
    assert ran.code == 0
    assert (ran.json["calls"], ran.json["complete"], ran.json["by"]) == (1, True, {"match": True})
    assert not holds(custody, SECRET)
    assert not holds(custody, "walnut")
    assert custody("calls", "--text", SECRET, "--json").json["items"] == []
    first, second = custody("calls", "--oldest", "--json").json["items"]
    assert (first["outcome"], first["arguments"], first["result"]) == ("succeeded", None, None)
    assert second["arguments"]["argv"] == ["echo", "harmless"]
    assert custody("calls").out.count("(purged)") == 1


def test_verify_holds_after_a_purge_with_a_checkpoint_from_before(custody: Program) -> None:
    acted(custody, SECRET)
    anchor = custody.folder / "anchor"
    anchor.write_text(custody("checkpoint").out)
    assert custody("purge", "--match", SECRET, "--yes").code == 0
    assert custody("checkpoint").code == 0
    verified = custody("verify", "--anchor", f"{anchor}")
    assert verified.code == 0, verified.out + verified.err


def test_a_dry_run_says_the_same_and_touches_nothing(custody: Program) -> None:
    acted(custody, SECRET)
    dry = custody("purge", "--match", SECRET, "--dry-run", "--json").json
    assert holds(custody, SECRET)
    real = custody("purge", "--match", SECRET, "--yes", "--json").json
    own = ("dry_run", "purge_id")
    assert {name: value for name, value in dry.items() if name not in own} == {
        name: value for name, value in real.items() if name not in own
    }
    assert (dry["dry_run"], dry["purge_id"], real["dry_run"]) == (True, None, False)


def test_a_text_can_be_read_from_standard_input(custody: Program) -> None:
    """What is to be forgotten need not stand in the shell's history."""
    acted(custody, SECRET)
    assert custody("purge", "--match", "-", "--yes", stdin=f"{SECRET}\n").code == 0
    assert not holds(custody, SECRET)


def test_nothing_is_purged_unless_somebody_says_yes(custody: Program) -> None:
    acted(custody, SECRET)
    refused = custody("purge", "--match", SECRET)
    assert (refused.code, "--yes" in refused.err) == (2, True)
    assert holds(custody, SECRET)


def test_at_a_terminal_the_end_of_input_is_no_yes(custody: Program) -> None:
    acted(custody, SECRET)
    said = custody.at_terminal("purge", "--match", SECRET, columns=100, typed="\x04", code=1)
    assert "Nothing was purged." in said
    assert holds(custody, SECRET)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--whole",),
        ("--whole", "--before", "1d", "--match", "text"),
        ("--retention", "--before", "1d"),
        ("--match", "ab"),
        ("--before", "yesterday-ish"),
        ("--run", "nosuchrun"),
    ],
    ids=" ".join,
)
def test_what_is_not_meant_is_refused(custody: Program, arguments: tuple[str, ...]) -> None:
    acted(custody, "x")
    assert custody("purge", *arguments, "--yes").code == 2


def test_a_held_run_is_not_purged(custody: Program) -> None:
    acted(custody, SECRET)
    run = custody("runs", "--json").json["items"][0]["id"]
    assert custody("hold", run[:8], "--reason", "case 4711").code == 0
    (held,) = custody("hold", "--list", "--json").json["items"]
    assert (held["run_id"], held["reason"]) == (run, "case 4711")
    assert custody("purge", "--run", run, "--yes").code == 3
    ran = custody("purge", "--match", SECRET, "--yes", "--json")
    assert (ran.code, ran.json["complete"], ran.json["left"]["held"] > 0) == (1, False, True)
    assert holds(custody, SECRET)
    assert custody("hold", run[:8], "--release").code == 0
    assert custody("hold", "--list", "--json").json["items"] == []
    assert custody("purge", "--run", run, "--yes").code == 0
    assert not holds(custody, SECRET)


def test_a_run_that_has_not_ended_is_purged_by_force_alone(custody: Program) -> None:
    with custody.recording() as runtime, runtime.run("open", shared=True) as run:
        with run.observe("note", {"text": SECRET}):
            pass
        refused = custody("purge", "--run", run.id, "--yes")
        assert (refused.code, "--force" in refused.err) == (3, True)
        assert custody("purge", "--run", run.id, "--yes", "--force").code == 0
    assert not holds(custody, SECRET)


class Blind(Redactor):
    """As a redactor was before its scanners knew a format."""

    def keep_ordinary(self, value: Any, salt: bytes) -> Redacted:
        return Redacted(salt + msgspec.msgpack.encode(value))


def test_what_scanners_find_is_purged(custody: Program) -> None:
    acted(custody, "harmless")
    journal = Journal(RealDisk(custody.store))
    Recorder(journal, Blind(b"k" * 32), IdSource()).event("app.note", {"said": f"key {AWS_KEY}"})
    journal.close()
    assert holds(custody, AWS_KEY)
    ran = custody("purge", "--secrets", "--yes", "--json")
    assert (ran.code, ran.json["records"]) == (0, 1)
    assert ran.json["rules"] and not holds(custody, AWS_KEY)


def test_undo_data_goes_with_the_call(custody: Program) -> None:
    (custody.work / "a").write_text("before")
    with custody.recording() as runtime:
        call = runtime.call("file_write", {"path": f"{custody.work}/a", "content": "after"})
    assert call.outcome == "succeeded"
    kept = custody.store / "undo" / call.id
    assert kept.exists()
    assert custody("purge", "--before", "0s", "--yes").code == 0
    assert not kept.exists()


def test_the_bounds_of_the_settings_are_kept_when_asked(custody: Program) -> None:
    acted(custody, SECRET)
    assert custody("purge", "--retention", "--yes", "--json").json["records"] == 0
    with custody.settings.open("a") as settings:
        settings.write("\n[retention]\nbytes_max = 1\n")
    assert "[retention]" in custody("runs").err
    ran = custody("purge", "--retention", "--yes", "--json")
    assert (ran.code, ran.json["records"] > 0) == (0, True)
    assert not holds(custody, SECRET)


def test_doctor_says_how_near_the_bound_is(custody: Program) -> None:
    acted(custody, "x")
    with custody.settings.open("a") as settings:
        settings.write("\n[retention]\ndays_max = 30\nbytes_max = 100\n")
    findings = {one["name"]: one for one in custody("doctor", "--json").json["findings"]}
    assert (findings["retention"]["state"], findings["retention"]["value"]["bytes_max"]) == ("note", 100)


def test_whole_segments_are_dropped_and_verify_says_from_where_it_can_check(custody: Program) -> None:
    with custody.recording() as runtime:
        with runtime.run("much") as run:
            for number in range(700):
                with run.observe("note", {"n": number, "text": SECRET}) as call:
                    call.result = "x" * 700
        with runtime.run("late"), runtime.run("later") as run, run.observe("note"):
            pass
    ran = custody("purge", "--whole", "--before", "0s", "--yes", "--json")
    assert ran.code == 0, ran.out + ran.err
    assert sum(shard["records"] for shard in ran.json["shards"]) > 300
    assert custody("checkpoint").code == 0
    left = custody("calls", "--json", "--limit", "1000").json["items"]
    assert 0 < len(left) < 701
    acted(custody, "goes on")
    verified = custody("verify")
    assert verified.code == 0, verified.out + verified.err


def test_a_store_that_is_not_there_is_not_made(custody: Program) -> None:
    assert custody("purge", "--before", "1d", "--yes").code == 2
    assert not custody.store.exists()
