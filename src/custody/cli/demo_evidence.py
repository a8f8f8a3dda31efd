"""What the demo shows of the record as evidence: checked, tampered with, rolled back, purged, handed out.

Owns these chapters of the story. Uses the commands an auditor would, each in a process of its own: nobody has
the store open meanwhile. Used by `demo`.
"""

import json
import os
import secrets
import shutil
import string
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from custody.cli.demo_commands import COMMAND_SECONDS, run_custody
from custody.cli.demo_story import Story

if TYPE_CHECKING:
    from custody.blocking import BlockingRuntime

PERSONAL = "Please forget ada.lovelace@example.org"
BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase


def github_like_token() -> str:
    """Nobody's, with the prefix and the checksum of a personal access token."""
    text = "".join(secrets.choice(BASE62) for _ in range(30))
    left, check = zlib.crc32(text.encode()), ""
    while left:
        left, digit = divmod(left, 62)
        check = BASE62[digit] + check
    return f"ghp_{text}{check.rjust(6, '0')}"


def answer_customer(story: Story, runtime: "BlockingRuntime") -> str:
    """A run with something personal in it, to be purged later; returns its id."""
    with runtime.run("Answer a customer", agent="demo-agent") as run:
        call = run.call("exec", {"argv": ["echo", PERSONAL]})
    story.claim("a run handles a customer's letter", call.outcome == "succeeded", call.outcome)
    return run.id


def audit(story: Story, folder: Path, store: Path, personal_run: str, shown_run: str) -> None:
    """From a checkpoint to a bundle that is checked without Custody."""
    story.chapter("12. An auditor looks at the record")
    older = folder / "older-copy"
    shutil.copytree(store, older)
    run_custody("exec", "--", "true", store=store)
    kept = folder / "kept-elsewhere.txt"
    kept.write_text(run_custody("checkpoint", store=store).stdout)
    verdict = verify(store, kept)
    story.claim(f"custody verify: {verdict['verdict']}", verdict["ok"], verdict["faults"])
    tampered = folder / "tampered-copy"
    shutil.copytree(store, tampered)
    changed = flip_a_bit(tampered)
    found = verify(tampered)
    fault: dict[str, Any] = found["faults"][0] if found["faults"] else {}
    story.claim(
        f"one bit changed in a copy is found: {fault.get('what')} ({fault.get('file')}, "
        f"record {fault.get('sequence')}, offset {fault.get('offset')})",
        not found["ok"] and fault.get("file") == changed,
        found["verdict"],
    )
    story.claim(
        "an older copy in its place is intact in itself; the checkpoint kept elsewhere gives it away",
        verify(older)["ok"] and not verify(older, kept)["ok"],
        verify(older, kept)["verdict"],
    )
    forget(story, store, kept, personal_run)
    hand_out(story, folder, store, shown_run)


def forget(story: Story, store: Path, kept: Path, run_id: str) -> None:
    """Purge a run's payloads."""
    purged = run_custody("purge", "--run", run_id, "--reason", "asked for", "--yes", "--json", store=store)
    left = [path for path in store.rglob("*") if path.is_file() and PERSONAL.encode() in path.read_bytes()]
    verdict = verify(store, kept)
    story.claim(
        "the customer's letter is purged: in no byte of the store, and the old checkpoint still holds",
        purged.returncode == 0 and not left and verdict["ok"],
        [str(path) for path in left] or verdict["faults"] or purged.stderr,
    )


def hand_out(story: Story, folder: Path, store: Path, run_id: str) -> None:
    """A bundle, and the program in it that checks it."""
    bundle = folder / "evidence.tar.gz"
    made = run_custody("export", "--bundle", str(bundle), "--run", run_id, store=store)
    checked = None
    if made.returncode == 0:
        with tarfile.open(bundle) as archive:
            program = next(one for one in archive.getmembers() if os.path.basename(one.name) == "verify.py")
            content = archive.extractfile(program)
            assert content is not None, "verify.py is a file"
            (folder / "verify.py").write_bytes(content.read())
        checked = subprocess.run(
            [sys.executable, str(folder / "verify.py"), str(bundle)],
            check=False, capture_output=True, text=True, timeout=COMMAND_SECONDS,
        )  # fmt: skip
    said = "" if checked is None else checked.stdout.partition("\n")[0]
    story.claim(
        f"a bundle of the first run checks itself without Custody: {said}",
        checked is not None and checked.returncode == 0,
        made.stderr if checked is None else checked.stderr,
    )


def verify(store: Path, anchor: Path | None = None) -> dict[str, Any]:
    """What `custody verify --json` says."""
    options = [] if anchor is None else ["--anchor", str(anchor)]
    return json.loads(run_custody("verify", "--json", *options, store=store).stdout)


def flip_a_bit(store: Path) -> str:
    """In the middle of what is used of the first segment; returns the file's name below the store."""
    segment = min(store.glob("journal/*/*.seg"))
    data = bytearray(segment.read_bytes())
    place = len(bytes(data).rstrip(b"\0")) // 2
    while not data[place]:
        place += 1
    data[place] ^= 1
    segment.write_bytes(data)
    return str(segment.relative_to(store))
