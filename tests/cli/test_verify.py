"""`custody verify` as a person uses it: the store, anchors, proofs, exit codes, writers beside it."""

import json
from pathlib import Path
from typing import Any

import apsw
import pytest
from tests.cli.conftest import Program, Ran


def exec_some(custody: Program, count: int = 2) -> None:
    for number in range(count):
        assert custody("exec", "--", "echo", f"hello {number}").code == 0


def anchored(custody: Program, name: str = "anchor") -> Path:
    """The newest checkpoint, kept elsewhere."""
    path = custody.folder / name
    done = custody("checkpoint")
    assert done.code == 0, done.err
    path.write_text(done.out)
    return path


def change(path: Path, offset: int, bits: int = 0x20) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= bits
    path.write_bytes(bytes(data))


def segment(custody: Program) -> Path:
    return custody.store / "journal" / "0001" / "00000001.seg"


def test_an_intact_store_says_up_to_where_it_is_complete_signed_and_anchored(custody: Program) -> None:
    exec_some(custody)
    anchor = anchored(custody)
    done = custody("verify", "--anchor", str(anchor))
    assert (done.code, done.err) == (0, "")
    first, *_, last = done.out.splitlines()
    assert first.startswith("shard 1: complete to record ")
    assert "signed to" in first
    assert "anchored to" in first
    assert last.startswith("Intact: ")
    assert "Not checked: " in done.out


def test_the_json_is_one_document_with_every_shard(custody: Program) -> None:
    exec_some(custody)
    report = custody("verify", "--json").json
    assert report["ok"] is True
    (shard,) = report["shards"]
    assert shard["shard"] == 1
    assert shard["records"] >= shard["signed"] > 0
    assert (report["fault_count"], report["faults"], report["problems"]) == (0, [], [])
    assert report["index"] == "absent"


def test_a_changed_record_is_named_with_its_place(custody: Program) -> None:
    exec_some(custody, 3)
    change(segment(custody), 700)
    done = custody("verify")
    assert done.code == 1
    assert "journal/0001/00000001.seg at " in done.out
    assert "shard 1, record " in done.out
    assert done.out.splitlines()[-1].startswith("Not intact: ")
    report = custody("verify", "--json")
    assert report.code == 1
    assert report.json["faults"][0]["file"] == "journal/0001/00000001.seg"


def test_verifying_changes_no_file(custody: Program) -> None:
    exec_some(custody)
    custody("runs")
    before = {path: path.read_bytes() for path in custody.store.rglob("*") if path.is_file()}
    assert custody("verify").code == 0
    assert {path: path.read_bytes() for path in custody.store.rglob("*") if path.is_file()} == before


def test_what_is_missing_or_not_to_be_read_is_exit_2(custody: Program) -> None:
    assert custody("verify").code == 2  # no store
    exec_some(custody)
    assert custody("verify", "--anchor", "nowhere").code == 2
    (custody.folder / "empty").write_text("")
    assert custody("verify", "--anchor", str(custody.folder / "empty")).code == 2
    assert custody("verify", "--public-key", str(custody.folder / "empty")).code == 2
    (custody.store / "keys" / "checkpoint.pub").unlink()
    done = custody("verify")
    assert done.code == 2
    assert "public keys are missing" in done.out


def test_an_anchor_of_another_store_is_exit_2(custody: Program, tmp_path: Path) -> None:
    exec_some(custody, 1)
    anchor = anchored(custody)
    other = str(tmp_path / "other")
    assert custody("exec", "--store", other, "--", "true").code == 0
    done = custody("verify", "--store", other, "--anchor", str(anchor))
    assert done.code == 2
    assert "another store" in done.err


def test_an_older_copy_of_the_store_is_shown_by_an_anchor(custody: Program, tmp_path: Path) -> None:
    import shutil

    exec_some(custody, 1)
    anchored(custody)
    shutil.copytree(custody.store, tmp_path / "copy")
    exec_some(custody, 1)
    anchor = anchored(custody)
    shutil.rmtree(custody.store)
    shutil.copytree(tmp_path / "copy", custody.store)
    assert custody("verify").code == 0
    done = custody("verify", "--anchor", str(anchor))
    assert done.code == 1
    assert "and the log has only" in done.out


def test_an_edited_index_is_a_fault(custody: Program) -> None:
    exec_some(custody)
    custody("runs")
    connection: Any = apsw.Connection(str(custody.store / "index.db"))
    connection.execute("UPDATE calls SET latency_us = 1 WHERE row = 1")
    connection.close()
    done = custody("verify")
    assert done.code == 1
    assert "latency_us" in done.out


def test_purged_payloads_are_no_fault_and_old_anchors_hold(custody: Program) -> None:
    exec_some(custody, 3)
    anchor = anchored(custody)
    assert custody("purge", "--match", "hello 1", "--yes").code == 0
    done = custody("verify", "--anchor", str(anchor))
    assert done.code == 0
    assert "payloads purged" in done.out


def test_a_key_kept_elsewhere_counts_alone(custody: Program, tmp_path: Path) -> None:
    exec_some(custody, 1)
    keys = tmp_path / "custody.pub"
    keys.write_text(custody("checkpoint", "--public-key").out)
    assert custody("verify", "--public-key", str(keys)).code == 0
    other = str(tmp_path / "other")
    assert custody("exec", "--store", other, "--", "true").code == 0
    done = custody("verify", "--store", other, "--public-key", str(keys))
    assert done.code == 1
    assert "no key that is given" in done.out


def test_a_proof_is_checked_without_the_store(custody: Program, tmp_path: Path) -> None:
    exec_some(custody, 1)
    call = custody("calls", "--json").json["items"][0]["id"]
    proof = tmp_path / "proof.json"
    assert custody("prove", call, "--out", str(proof)).code == 0
    keys = tmp_path / "custody.pub"
    keys.write_text(custody("checkpoint", "--public-key").out)
    nowhere = str(tmp_path / "nowhere")
    done = custody("verify", "--proof", str(proof), "--store", nowhere)
    assert (done.code, "holds together" in done.out) == (0, True)
    done = custody("verify", "--proof", str(proof), "--public-key", str(keys), "--store", nowhere)
    assert (done.code, done.out) == (0, "The proof holds.\n")
    document: dict[str, Any] = json.loads(proof.read_text())
    document["records"][0]["sequence"] += 1
    proof.write_text(json.dumps(document))
    done = custody("verify", "--proof", str(proof), "--json")
    assert (done.code, done.json["ok"]) == (1, False)
    proof.write_text("no proof")
    assert custody("verify", "--proof", str(proof)).code == 2


def test_only_one_thing_is_checked_at_a_time(custody: Program) -> None:
    assert custody("verify", "--proof", "a", "--bundle", "b").code == 2


@pytest.mark.timeout(120)
def test_a_store_that_is_written_to_meanwhile_is_intact(custody: Program) -> None:
    """Writers at work in two shards; what they are writing is not a fault."""
    import threading

    with custody.recording() as one, custody.recording() as other:
        stop = threading.Event()

        def work(runtime: Any) -> None:
            while not stop.is_set():
                with runtime.run("work", agent="tester") as run:
                    for number in range(20):
                        with run.observe("search", {"number": number}) as call:
                            call.result = "x" * (number * 90)

        threads = [threading.Thread(target=work, args=(runtime,)) for runtime in (one, other)]
        for thread in threads:
            thread.start()
        try:
            found: list[Ran] = [custody("verify", "--json") for _ in range(4)]
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    for done in found:
        assert done.code == 0, done.out
    assert found[-1].json["records"] > 0
    assert any(shard["live"] for shard in found[-1].json["shards"])
    assert custody("verify").code == 0
