"""`custody checkpoint`: what is signed, by which key, and what a person is told of it."""

import os
import subprocess

import pytest
from tests.checkpoints.conftest import events_of
from tests.cli.conftest import CALM, RUN_SECONDS_MAX, Program

from custody.checkpoints import read_verifiers
from custody.journal import RealDisk
from custody.journal.checkpoint import parse_log, parse_note


def record(custody: Program, count: int = 1) -> None:
    with custody.recording() as runtime, runtime.run("numbers") as run:
        for number in range(count):
            run.event("app.number", number=number)


def add_settings(custody: Program, text: str) -> None:
    custody.settings.write_text(CALM + text)


def test_it_prints_the_newest_checkpoint_as_it_is_to_be_kept(custody: Program):
    record(custody, 5)
    ran = custody("checkpoint")
    assert (ran.code, ran.err) == (0, "")
    note = parse_note(ran.out.encode())
    assert note.data.decode() == ran.out
    assert note.signed_by(read_verifiers(RealDisk(custody.store)))
    assert (custody.store / "checkpoints/log").read_text().endswith(ran.out)


def test_with_nothing_new_it_prints_the_same_again(custody: Program):
    record(custody)
    assert custody("checkpoint").out == custody("checkpoint").out


def test_a_program_signs_when_it_closes_the_store(custody: Program):
    record(custody)
    assert len(parse_log((custody.store / "checkpoints/log").read_bytes()).notes) == 1


def test_commands_one_after_the_other_leave_one_checkpoint_and_all_can_be_signed(custody: Program):
    add_settings(custody, "[checkpoints]\nseconds = 3600\n")
    for _ in range(4):
        assert custody("exec", "--", "true").code == 0
    log = custody.store / "checkpoints/log"
    assert len(parse_log(log.read_bytes()).notes) == 1
    ran = custody("checkpoint", "--json").json
    status = custody("checkpoint", "--status", "--json").json
    assert [(shard["shard"], shard["size"]) for shard in ran["shards"]] == [
        (shard["shard"], shard["records"]) for shard in status["shards"]
    ]
    assert all(shard["signed"] == shard["records"] for shard in status["shards"])


def test_as_json_it_says_what_the_note_says(custody: Program):
    record(custody)
    said = custody("checkpoint", "--json").json
    note = parse_note(said["note"].encode())
    assert said["size"] == note.checkpoint.size
    assert said["shards"][0] == {
        "shard": 1, "size": note.checkpoint.heads[1].size, "root": note.checkpoint.heads[1].root.hex()
    }  # fmt: skip
    assert said["refused"] == []
    assert len(said["keys"]) == 1


def test_the_status_says_how_far_each_shard_is_signed(custody: Program):
    add_settings(custody, "[checkpoints]\nseconds = 3600\n")
    ran = custody("exec", "--", "true")
    assert ran.code == 0
    custody("checkpoint")
    custody("exec", "--", "true")
    text = custody("checkpoint", "--status").out
    status = custody("checkpoint", "--status", "--json").json
    [shard] = status["shards"]
    assert 0 < shard["signed"] < shard["records"]
    assert f"shard 1: {shard['signed']} of {shard['records']} records signed" in text
    assert f"key {status['keys'][0]['key_id']} signs" in text


def test_a_store_without_checkpoints_has_a_status_and_no_public_key(custody: Program):
    custody.store.mkdir()
    assert custody("checkpoint", "--status").out == "no checkpoint yet\n"
    assert custody("checkpoint", "--public-key").code == 2


def test_the_key_can_be_replaced_and_the_public_ones_are_shown(custody: Program):
    record(custody)
    before = custody("checkpoint", "--public-key").out
    ran = custody("checkpoint", "--rotate-key")
    assert ran.code == 0
    lines = custody("checkpoint", "--public-key").out
    assert lines.startswith(before)
    old, new = read_verifiers(RealDisk(custody.store))
    assert lines.splitlines() == [old.line, new.line]
    note = parse_note(ran.out.encode())
    assert note.signed_by([old]) == [old]
    assert note.signed_by([new]) == [new]
    assert [event["replaces"] for event in events_of(RealDisk(custody.store), "key.created")] == [
        None,
        old.key_id,
    ]
    status = custody("checkpoint", "--status").out
    assert f"key {old.key_id} has been replaced" in status


def test_a_key_file_that_is_gone_is_said_and_never_replaced_unasked(custody: Program):
    record(custody)
    (custody.store / "keys/checkpoint.key").unlink()
    ran = custody("exec", "--", "true")
    assert ran.code == 0
    ran = custody("checkpoint")
    if ran.code == 0:  # nothing new to sign is no answer: something was recorded
        pytest.fail("it signed without its key")
    assert ran.code == 1
    assert "is gone from" in ran.err
    assert "--rotate-key" in ran.err
    assert "private key is gone" in custody("checkpoint", "--status").out
    assert custody("checkpoint", "--rotate-key").code == 0
    assert custody("checkpoint").code == 0


def test_a_key_file_that_cannot_be_read_is_an_error_of_the_store(custody: Program):
    record(custody)
    (custody.store / "keys/checkpoint.key").write_text("nonsense\n")
    for arguments in (("checkpoint",), ("checkpoint", "--status")):
        ran = custody(*arguments)
        assert ran.code == 2
        assert "does not hold keys" in ran.err
    assert custody("checkpoint", "--json").json["error"]["type"] == "MalformedKey"


def test_a_log_that_lost_checkpoints_is_exit_one_and_named(custody: Program):
    record(custody)
    record(custody)
    log = custody.store / "checkpoints/log"
    notes = parse_log(log.read_bytes())
    log.write_bytes(notes.notes[0].data)
    ran = custody("checkpoint")
    assert ran.code == 1
    assert "gone from" in ran.err
    assert str(log) in ran.err


def test_there_must_be_a_store_and_only_one_question(custody: Program):
    assert custody("checkpoint").code == 2
    record(custody)
    assert custody("checkpoint", "--status", "--public-key").code == 2


def test_checkpoints_go_where_the_settings_say_and_what_does_not_arrive_is_told(custody: Program):
    kept = custody.folder / "kept.log"
    got = custody.folder / "got"
    add_settings(
        custody,
        f'[checkpoints]\nfiles = ["{kept}", "{custody.folder}/none/kept"]\n'
        f'commands = [["sh", "-c", "cat > {got}"]]\n',
    )
    record(custody)
    ran = custody("checkpoint")
    assert kept.read_text() == (custody.store / "checkpoints/log").read_text()
    assert got.read_text() == ran.out
    status = custody("checkpoint", "--status", "--json").json["destinations"]
    fares = {destination["to"]: destination for destination in status}
    assert fares[str(kept)]["error"] is None
    assert fares[f"{custody.folder}/none/kept"]["undelivered"] >= 1
    assert "did not arrive" in custody("checkpoint", "--status").out
    custody("checkpoint")
    assert kept.read_text() == (custody.store / "checkpoints/log").read_text()


@pytest.mark.long
def test_a_place_that_never_answers_does_not_hold_up_a_command(custody: Program):
    add_settings(custody, '[checkpoints]\ncommands = [["sleep", "600"]]\n')
    patient = "from custody.checkpoints import destinations\ndestinations.COMMAND_SECONDS = 300.0"
    command = custody.altered(patient, "exec", "--", "true")
    subprocess.run(
        command, cwd=custody.work, env=custody.environment, stdin=subprocess.DEVNULL, check=True,
        timeout=RUN_SECONDS_MAX,
    )  # fmt: skip
    assert "did not arrive" in custody("checkpoint", "--status").out


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anything")
def test_a_store_that_cannot_be_written_is_not_signed(custody: Program):
    record(custody)
    folder = custody.store / "checkpoints"
    folder.chmod(0o500)
    try:
        assert custody("checkpoint").code == 5
    finally:
        folder.chmod(0o700)


def test_each_writer_says_how_many_checkpoints_it_found(custody: Program):
    for _ in range(3):
        record(custody)
    disk = RealDisk(custody.store)
    notes = parse_log((custody.store / "checkpoints/log").read_bytes()).notes
    assert events_of(disk, "writer.opened") == [
        {"checkpoints": None, "root": None},
        {"checkpoints": 1, "root": notes[0].checkpoint.root.hex()},
        {"checkpoints": 2, "root": notes[1].checkpoint.root.hex()},
    ]
