"""`custody prove`: proofs of calls and runs, and that nothing was taken back."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.conftest import Program

from custody.checkpoints import check_proof
from custody.journal import RealDisk
from custody.journal.checkpoint import parse_log

ROOT = Path(__file__).resolve().parents[2]


def act(custody: Program, count: int = 1) -> None:
    for number in range(count):
        assert custody("exec", "--", "echo", str(number)).code == 0


def test_the_proof_of_a_run_has_all_its_records_and_holds(custody: Program):
    act(custody, 2)
    ran = custody("prove", "latest")
    assert (ran.code, ran.err) == (0, "")
    assert check_proof(ran.json) == []
    kinds = [record["kind"] for record in ran.json["records"]]
    assert {"run_started", "call_started", "call_finished", "run_finished"} <= set(kinds)
    assert ran.json["of"] == custody("runs", "--json").json["items"][0]["id"]


def test_the_proof_of_a_call_has_its_records_alone(custody: Program):
    act(custody)
    call = custody("calls", "--json").json["items"][0]["id"]
    ran = custody("prove", call[:10])
    assert check_proof(ran.json) == []
    assert ran.json["of"] == call
    kinds = {record["kind"] for record in ran.json["records"]}
    assert kinds <= {"call_started", "call_finished", "event"}
    assert {record["view"].get("call_id") for record in ran.json["records"]} == {call}


def test_a_proof_is_written_to_a_file_and_what_it_is_of_is_said(custody: Program):
    act(custody)
    out = custody.folder / "proof.json"
    ran = custody("prove", "latest", "--out", str(out))
    assert ran.code == 0
    assert "are under checkpoint" in ran.out
    assert check_proof(out.read_bytes()) == []
    said = custody("prove", "latest", "--out", str(out), "--json").json
    assert (said["out"], said["bytes"]) == (str(out), out.stat().st_size)
    assert custody("prove", "latest", "--out", str(custody.folder / "none" / "proof")).code == 2


def test_what_is_not_signed_yet_is_signed_first(custody: Program):
    act(custody)
    custody("checkpoint")
    before = len(parse_log((custody.store / "checkpoints/log").read_bytes()).notes)
    act(custody)
    assert check_proof(custody("prove", "latest").json) == []
    assert len(parse_log((custody.store / "checkpoints/log").read_bytes()).notes) == before + 1


def test_what_there_is_not_is_no_proof(custody: Program):
    act(custody)
    assert custody("prove", "0123456789").code == 2
    assert custody("prove").code == 2
    assert custody("prove", "latest", "--consistency", "x").code == 2


def test_of_a_store_that_goes_on_from_an_older_checkpoint_it_is_proved(custody: Program):
    act(custody)
    old = custody.folder / "old.note"
    old.write_text(custody("checkpoint").out)
    act(custody, 2)
    custody("checkpoint")
    ran = custody("prove", "--consistency", str(old))
    assert ran.code == 0
    assert check_proof(ran.json) == []
    out = custody.folder / "consistency.json"
    said = custody("prove", "--consistency", str(old), "--out", str(out), "--json").json
    assert (said["consistent"], said["faults"]) == (True, [])
    assert "goes on from" in custody("prove", "--consistency", str(old), "--out", str(out)).out


@pytest.mark.parametrize("kind", ["proof", "consistency", "log"])
def test_the_older_checkpoint_is_found_in_a_proof_or_a_log_too(custody: Program, kind: str):
    act(custody)
    old = custody.folder / "old"
    note = custody.folder / "note"
    note.write_text(custody("checkpoint").out)
    if kind == "proof":
        old.write_text(custody("prove", "latest").out)
    elif kind == "consistency":
        old.write_text(custody("prove", "--consistency", str(note)).out)
    else:
        old.write_bytes((custody.store / "checkpoints/log").read_bytes())
    act(custody)
    custody("checkpoint")
    assert custody("prove", "--consistency", str(old)).code == 0


@pytest.mark.parametrize("content", [None, b"", b"nonsense", b"{}", b"{", b"\xff\xfe\n\n\n"])
def test_a_file_without_a_checkpoint_is_bad_input(custody: Program, content: bytes | None):
    act(custody)
    old = custody.folder / "old"
    if content is not None:
        old.write_bytes(content)
    ran = custody("prove", "--consistency", str(old))
    assert ran.code == 2
    assert ran.out == ""


def forget_the_end(store: Path) -> None:
    """What a holder of disk and key can do: take the last checkpoints away and go on from before."""
    log = store / "checkpoints/log"
    notes = parse_log(log.read_bytes()).notes
    log.write_bytes(notes[0].data)
    (store / "checkpoints/place").unlink()


def test_a_store_that_took_something_back_is_found_out(custody: Program):
    act(custody)
    custody("checkpoint")
    act(custody)
    old = custody.folder / "old.note"
    old.write_text(custody("checkpoint").out)
    forget_the_end(custody.store)
    custody("checkpoint")
    ran = custody("prove", "--consistency", str(old))
    assert ran.code == 1
    assert "is not the older one" in ran.err
    assert check_proof(json.loads(ran.out)) != []


def test_a_store_without_its_log_is_found_out(custody: Program):
    act(custody)
    old = custody.folder / "old.note"
    old.write_text(custody("checkpoint").out)
    (custody.store / "checkpoints/log").unlink()
    ran = custody("prove", "--consistency", str(old))
    assert ran.code == 1
    assert "no checkpoint, though there is an older one" in ran.err


def test_the_hashes_that_proofs_are_made_from_may_be_deleted(custody: Program):
    act(custody)
    assert custody("prove", "latest").code == 0
    disk = RealDisk(custody.store)
    for name in disk.names("checkpoints/tiles/0001"):
        disk.remove(f"checkpoints/tiles/0001/{name}")
    assert check_proof(custody("prove", "latest").json) == []


def test_the_twenty_lines_of_the_guide_check_a_proof_without_custody(custody: Program):
    act(custody, 3)
    text = (ROOT / "docs" / "how-to" / "checkpoints.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(code.splitlines()) <= 25
    proof = custody.folder / "proof.json"
    custody("checkpoint", "--rotate-key")
    custody("prove", "latest", "--out", str(proof))
    old, new = custody("checkpoint", "--public-key").out.splitlines()

    def check(key: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-I", "-c", code, str(proof), key], capture_output=True, text=True, timeout=60
        )

    done = check(new)
    assert (done.returncode, done.stderr.count("Error")) == (0, 0)
    assert "records, signed by" in done.stdout
    assert check(old).returncode == 0  # the first checkpoint after a new key is signed by both
    document = json.loads(proof.read_text())
    document["records"][0]["leaf"] = document["records"][1]["leaf"]
    proof.write_text(json.dumps(document))
    assert "is not what was signed" in check(new).stderr
    document["checkpoint"] = document["checkpoint"].replace("time 2", "time 3")
    proof.write_text(json.dumps(document))
    assert "InvalidSignature" in check(new).stderr
