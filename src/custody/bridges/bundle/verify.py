#!/usr/bin/env python3
"""Opens a bundle of Custody's records and checks it. Needs Python 3.11 and `cryptography`, nothing else.

    python verify.py BUNDLE.tar.gz [--key FILE]

Exit 0: all of it holds. 1: something does not, and it is named. 2: this cannot be opened. A copy of this
program lies in every bundle; run one that you have from elsewhere, as you do with `--key`: the store's public
key, without which the signatures show only that one key made them all, whosever it is. Writes no file.
"""

# pyright: basic

import base64
import gzip
import hashlib
import io
import json
import re
import struct
import sys
import tarfile
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

FIXED = ("BUNDLE", "README.md", "SHA256SUMS", "checkpoint", "key.pub", "records.jsonl", "verify.py")
NAME = re.compile(
    r"|".join(map(re.escape, FIXED)) + r"|blobs/[0-9a-f]{64}|witnesses/[\w.%~-]+\.witness\.json",
    re.ASCII,
)
COUNTED = ("calls", "records", "blobs", "payloads_purged", "blobs_gone")
BYTES_MAX = 1 << 30  # unpacked, all of it: it is held in memory
MEMBERS_MAX = 1_000_000
GZIP_START = bytes.fromhex("1f8b0804000000000000") + b"\x24\0CU\x20\0"  # then SHA-256 of all that follows
ZSTD_START = bytes.fromhex("502a4d18") + b"\x20\0\0\0"  # the same, in a frame that zstd skips


class Fault(Exception):
    """Something in the bundle is not as it should be."""


class Unreadable(Exception):
    """This cannot be opened as a bundle."""


# -- signatures and trees: what the rest stands on -------------------------------------------------------


def open_note(name: str, note: bytes, keys: list[str]) -> tuple[str, list[str]]:
    """Who of these keys' owners has signed a note (C2SP signed-note), and its lines."""
    text, found, signatures = note.decode().rpartition("\n\n")
    *lines, rest = signatures.split("\n")
    for line in lines if found and not rest else []:
        mark, signer, encoded = line.split(" ")
        signed = base64.b64decode(encoded, validate=True)
        if base64.b64encode(signed).decode() != encoded:
            continue  # Base64 has bits that mean nothing; a signature has one spelling
        for key in keys:
            owner, key_hash, encoded = key.split("+", 2)
            public = base64.b64decode(encoded, validate=True)
            own_hash = hashlib.sha256(owner.encode() + b"\n" + public).digest()[:4]
            if (mark, signer, signed[:4], key_hash) == ("\u2014", owner, own_hash, own_hash.hex()):
                try:
                    Ed25519PublicKey.from_public_bytes(public[1:]).verify(signed[4:], f"{text}\n".encode())
                except InvalidSignature:
                    raise Fault(f"the signature of {name} is wrong: it was changed after that") from None
                return owner, text.split("\n")
    raise Fault(f"{name} is not signed by a key that is known here")


def tree_root(leaf: bytes, index: int, size: int, path: list[bytes]) -> bytes | None:
    """The root of a tree of `size` leaves whose number `index` is `leaf` (RFC 9162, section 2.1.3.2)."""
    root, node, last = hashlib.sha256(b"\0" + leaf).digest(), index, size - 1
    for other in path:
        if not last:
            return None
        pair = other + root if node & 1 or node == last else root + other
        root = hashlib.sha256(b"\1" + pair).digest()
        while not node & 1 and node and node == last:
            node, last = node >> 1, last >> 1
        node, last = node >> 1, last >> 1
    return None if last else root


# -- the archive: plain files alone, in memory, within bounds -------------------------------------------


def is_whole(file: Any, start: bytes) -> bool:
    """Whether a file that starts so is as it was written, down to bits that no program looks at."""
    file.seek(0)
    head, digest = file.read(len(start) + 32), hashlib.sha256()
    while piece := file.read(1 << 20):
        digest.update(piece)
    file.seek(0)
    return head == start + digest.digest()


def unpacked(file: Any) -> Any:
    """The tar within the file."""
    start = file.read(4)
    if start == ZSTD_START[:4]:
        raise Unreadable(
            "it is packed with zstd, which Python 3.11 has not: `zstd -d` it, and check the .tar"
        )
    if start[:2] == GZIP_START[:2]:
        if not is_whole(file, GZIP_START):
            raise Fault("the file is cut short, or was changed after it was written")
        return gzip.GzipFile(fileobj=file)
    file.seek(0)
    return file


def members(tar: Any) -> Iterator[tuple[str, bytes]]:
    """Name and content of every file in a tar that holds nothing but plain files."""
    room = BYTES_MAX
    while any(header := tar.read(512)):
        info = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
        if not NAME.fullmatch(info.name) or ".." in info.name.split("/"):
            raise Fault(f"{info.name!r} has no place in a bundle")
        plain = tarfile.TarInfo(info.name)
        plain.size, plain.mtime = info.size, info.mtime
        if header != plain.tobuf(tarfile.USTAR_FORMAT):
            raise Fault(f"{info.name!r} is not a plain file, or its header is not a bundle's")
        room -= info.size + 512
        if room < 0:
            raise Fault(f"{info.name!r} has {info.size} bytes: unpacked, a bundle has at most {BYTES_MAX}")
        content = tar.read(info.size)
        padding = tar.read(-info.size % 512)
        if len(content) < info.size or len(padding) < -info.size % 512 or any(padding):
            raise Fault(f"{info.name!r} is cut short")
        yield info.name, content
    if len(header) < 512 or tar.read(512) != bytes(512) or tar.read(1):
        raise Fault("the archive does not end as a bundle does")


def read_files(tar: Any) -> dict[str, bytes]:
    """Every file of the bundle by name."""
    files: dict[str, bytes] = {}
    try:
        for name, content in members(tar):
            if name in files:
                raise Fault(f"{name} is there twice")
            if len(files) == MEMBERS_MAX:
                raise Fault(f"there are more than {MEMBERS_MAX} files")
            files[name] = content
    except (gzip.BadGzipFile, zlib.error, EOFError, tarfile.TarError, UnicodeDecodeError) as error:
        after = f"after {list(files)[-1]}" if files else "at its beginning"
        raise Fault(f"the archive is damaged or cut short {after} ({error})") from error
    missing = [name for name in FIXED if name not in files]
    if missing:
        raise Fault(f"there is no {', '.join(missing)}")
    return files


# -- what records say (msgpack arrays), and the witness made of them -------------------------------------

REQUEST = """run_id position tool effect level decision asked_at_us session_id parent_id step_id external_id
 agent caller door dry_run owner_pid owner_start_ticks pid thread_id workspace decide_us proposal_id
 action_id attempt connection"""
USAGE = """wall_us user_us system_us memory_peak_bytes read_bytes write_bytes context_switches_voluntary
 context_switches_involuntary descendants stdout_bytes stderr_bytes stdout_dropped_bytes
 stderr_dropped_bytes"""
LEAVES = {
    1: """run_id at_us payload_digest agent caller session_id parent_run_id name client channel user host
 workspace""",
    2: "run_id at_us payload_digest",
    3: "call_id request payload_digest redactions",
    4: "call_id at_us decision payload_digest person",
    5: "call_id at_us monotonic_ns payload_digest request queue_us host_before redactions",
    6: """call_id at_us outcome payload_digest request reason passed source monotonic_ns latency_us record_us
 exit_code signal limit_hit usage child_pid child_start_ticks changes host_after redactions decision held
 settles settled held_digest""",
    7: "step_id run_id at_us payload_digest",
    8: "event_id name at_us payload_digest",
}
"""Kind of a record -> the first fields of its leaf, in their order, behind the kind itself."""
RUN_STARTED, ASKED, ANSWERED, STARTED, FINISHED, EVENT = 1, 3, 4, 5, 6, 8
NUMBERS = dict(zip(range(0xCA, 0xD4), ">f >d >B >H >I >Q >b >h >i >q".split(), strict=True))
SIZES = {0xC4: ">B", 0xC5: ">H", 0xC6: ">I", 0xD9: ">B", 0xDA: ">H", 0xDB: ">I", 0xDC: ">H", 0xDD: ">I",
         0xDE: ">H", 0xDF: ">I"}  # fmt: skip


def unpack(read: Any) -> Any:
    """One value of msgpack; bytes, and floats JSON does not have, as JSON shows them."""
    tag = read(1)[0]
    if tag < 0x80 or tag >= 0xE0:
        return tag if tag < 0x80 else tag - 0x100
    if tag in (0xC0, 0xC2, 0xC3):
        return {0xC0: None, 0xC2: False, 0xC3: True}[tag]
    if tag in NUMBERS:
        number = struct.unpack(NUMBERS[tag], read(struct.calcsize(NUMBERS[tag])))[0]
        odd = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(str(number))
        return {"$type": "float", "value": odd} if odd else number
    if tag in SIZES:
        (size,) = struct.unpack(SIZES[tag], read(struct.calcsize(SIZES[tag])))
    else:
        size = tag & (31 if tag >= 0xA0 else 15)
    if tag in (0xC4, 0xC5, 0xC6):
        return {"$type": "bytes", "base64": base64.b64encode(read(size)).decode()}
    if 0xA0 <= tag < 0xC0 or tag in (0xD9, 0xDA, 0xDB):
        return read(size).decode()
    if tag >= 0xDE or tag < 0x90:
        return {unpack(read): unpack(read) for _ in range(size)}
    return [unpack(read) for _ in range(size)]


def hexed(value: Any) -> str | None:
    """An id as it is shown."""
    return None if value is None else base64.b64decode(value["base64"]).hex()


def shown_time(microseconds: int) -> str:
    return f"{datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds):%Y-%m-%dT%H:%M:%S.%fZ}"


def named(names: str, values: list[Any] | None) -> dict[str, Any] | None:
    """An array of a record as a mapping; fields that a later version added are None in older records."""
    return None if values is None else dict(zip(names.split(), [*values, *[None] * 32], strict=False))


def without_names(value: Any) -> Any:
    """A sample of the machine as it is recorded: a list where a witness has names, without what is unknown
    at its end."""
    if isinstance(value, dict | list):
        values = [without_names(item) for item in (value.values() if isinstance(value, dict) else value)]
        while values and values[-1] is None:
            values.pop()
        return values
    return value


def known(change: Any) -> Any:
    """A change to a file, or a decision, as it is recorded: without what is not known, and what holds of
    most."""
    if isinstance(change, dict):
        if change.get("$type") == "str":
            return change["escaped"].replace("\\\\", "\\")
        usual = (("undoable", True), ("inferred", False))
        return {name: known(value) for name, value in change.items()
                if value not in (None, []) and (name, value) not in usual}  # fmt: skip
    return [known(one) for one in change] if isinstance(change, list) else change


class Record:
    """A record whose leaf is proven, from its line."""

    def __init__(self, text: bytes, files: dict[str, bytes]) -> None:
        self.text, line = text, json.loads(text)
        self.shard, self.sequence, self.kind = line["shard"], line["sequence"], line["kind"]
        self.name = f"record {self.sequence} of shard {self.shard}"
        leaf = base64.b64decode(line["leaf"], validate=True)
        kind, *values = unpack(io.BytesIO(leaf).read)
        if kind != self.kind:
            raise Fault(f"the leaf of {self.name} is of another kind")
        self.leaf: Any = named(LEAVES[kind], values)
        self.blobs: set[str] = set()
        self.purged = line["payload"] is None
        payload = b"" if self.purged else base64.b64decode(line["payload"], validate=True)
        if not self.purged and hashlib.sha256(payload).hexdigest() != hexed(self.leaf["payload_digest"]):
            raise Fault(f"the payload of {self.name} is not the one it was recorded with")
        said = unpack(io.BytesIO(payload[16:]).read) if len(payload) > 16 else {}
        self.payload: dict[str, Any] = {name: self._whole(value, files) for name, value in said.items()}

    def _whole(self, value: Any, files: dict[str, bytes]) -> Any:
        """What is kept as a blob of its own."""
        if not isinstance(value, dict) or "$blob" not in value:
            return value
        self.blobs.add(value["$blob"])
        blob = files.get(f"blobs/{value['$blob']}")
        return None if blob is None else unpack(io.BytesIO(blob).read)


def witness_of(records: dict[int, Record], run: Record | None) -> dict[str, Any]:
    """A call as every door shows it, from its records by kind; `host_before` and `host_after` are ids."""
    first = next(records[kind] for kind in (ASKED, STARTED, FINISHED) if kind in records)
    request: Any = named(REQUEST, first.leaf["request"])
    answered, started, finished = (records.get(kind) for kind in (ANSWERED, STARTED, FINISHED))
    around: Any = run.leaf if run else {}
    begun: Any = started.leaf if started else {}
    ended: Any = finished.leaf if finished else {}
    said = finished.payload if finished else {}
    prompt = first.payload.get("prompt")
    walls = started.payload.get("sandbox") if started else None
    ran = started or (first is finished and ended["outcome"] != "rejected")  # or was told of afterwards
    decided = ended.get("decision") or (answered.leaf["decision"] if answered else request["decision"])
    hits = [hit for kind in (ASKED, STARTED, FINISHED) if kind in records
            for hit in records[kind].leaf["redactions"] or []]  # fmt: skip
    plain = """position external_id tool effect level dry_run decide_us door pid thread_id proposal_id
 action_id attempt connection""".split()
    over = """outcome reason passed exit_code signal limit_hit latency_us record_us child_pid
 child_start_ticks host_after""".split()
    return {
        "id": hexed(first.leaf["call_id"]),
        **{name: hexed(request[name]) for name in ("run_id", "parent_id", "step_id")},
        **{name: request[name] for name in plain},
        **{name: around.get(name) if request[name] is None else request[name]
           for name in ("session_id", "agent", "caller", "workspace")},
        **{name: first.payload.get(name) for name in ("arguments", "cwd", "environment_withheld")},
        "sandbox": walls.get("name") if isinstance(walls, dict) else None,
        **{name: said.get(name) for name in ("result", "error", "changes")},
        **{name: ended.get(name) for name in over},
        "prompt": prompt if isinstance(prompt, str) else None,
        "source": ended.get("source", "executed"),
        "decision": named("verdict by reason rule param matched policy", decided),
        "asked_at": shown_time(request["asked_at_us"]),
        "started_at": shown_time(begun["at_us"] if started else request["asked_at_us"]) if ran else None,
        "finished_at": shown_time(ended["at_us"]) if finished else None,
        "monotonic_start_ns": begun.get("monotonic_ns"),
        "monotonic_end_ns": ended.get("monotonic_ns"),
        "queue_us": begun.get("queue_us"),
        "usage": named(USAGE, ended.get("usage")),
        "changes_count": ended.get("changes"),
        "held": None if ended.get("held") is None else "held",
        "settled_by": None,
        "held_digest": hexed(ended.get("held_digest")),
        "host_before": begun.get("host_before"),
        "redactions": [named("rule path count", hit) for hit in hits],
        "shard": first.shard,
        "sequence": first.sequence,
    }  # fmt: skip


# -- the check -------------------------------------------------------------------------------------------


def proven_records(files: dict[str, bytes], heads: dict[int, tuple[int, str]]) -> Iterator[Record | Fault]:
    """Each record, its leaf proven to be in the tree whose root is signed; else what is wrong with it."""
    before = (0, 0)
    for number, text in enumerate(io.BytesIO(files["records.jsonl"]), 1):
        try:
            line = json.loads(text)
            place = line["shard"], line["sequence"]
            name = f"record {place[1]} of shard {place[0]}"
            if place <= before:
                raise Fault(f"{name} (line {number}) is out of order, or there twice")
            before = place
            size, root = heads.get(place[0], (0, ""))
            if not 0 < place[1] <= size:
                raise Fault(f"{name} lies behind what the checkpoint signs")
            leaf = base64.b64decode(line["leaf"], validate=True)
            path = [base64.b64decode(node, validate=True) for node in line["path"]]
            found = tree_root(leaf, place[1] - 1, size, path)
            if found is None or base64.b64encode(found).decode() != root:
                raise Fault(f"{name} is not the one that was signed: its proof leads to another root")
            yield Record(text, files)
        except Fault as fault:
            yield fault
        except (ValueError, KeyError, TypeError, IndexError, struct.error, RecursionError) as error:
            yield Fault(f"line {number} of records.jsonl is no record ({error})")


def differences(witness: Any, records: dict[int, Record], run: Record | None, samples: Any) -> list[str]:
    """The fields in which a witness is not what its records say."""
    made = witness_of(records, run)
    wrong = sorted(witness.keys() - made.keys())
    for name in made:  # a witness made by an earlier version lacks what no record could say then
        said, shown = made[name], witness.get(name)
        if name in ("host_before", "host_after"):
            said, shown = without_names(samples.get(hexed(said))), without_names(shown)
        elif name in ("changes", "decision"):
            said, shown = known(said), known(shown)
        if said != shown:
            wrong.append(name)
    return wrong


def check(file: Any, trusted: list[str] | None = None, tar: Any = None) -> dict[str, Any]:
    """What a bundle holds, and everything found wrong with it under `faults`. Raises Unreadable, OSError.

    `trusted` are the keys that count, as verifier lines; None: those that came with the bundle.
    """
    report: dict[str, Any] = {"faults": [], "key": "enclosed" if trusted is None else "given"}
    try:
        files = read_files(tar or unpacked(file))
        keys = files["key.pub"].decode().split() if trusted is None else trusted
        owner, (title, content) = open_note("BUNDLE", files["BUNDLE"], keys)
        if title != "custody-bundle/1":
            raise Unreadable("it is of a later version than this program")
        facts = json.loads(content)
        report |= {name: int(facts[name]) for name in (*COUNTED, "omitted", "unsigned")}
        signer, (origin, _, _, time, *lines) = open_note("checkpoint", files["checkpoint"], keys)
        if not owner == signer == origin:
            raise Fault("BUNDLE and checkpoint are not of one store")
        report |= {"origin": origin, "time": time.removeprefix("time ")}
        shards = [line.split(" ") for line in lines if line.startswith("shard ")]
        heads = {int(shard): (int(size), root) for _, shard, size, root in shards}
        report["faults"] += wrong_with_list(files, facts["sha256sums"])
        report["faults"] += wrong_with_contents(files, heads, report)
    except (OSError, Unreadable):
        raise
    except Fault as fault:
        report["faults"].append(str(fault))
    except Exception as error:  # whatever a hostile file makes of this, it does not hold
        report["faults"].append(f"it cannot be understood ({type(error).__name__}: {error})")
    return report


def wrong_with_list(files: dict[str, bytes], signed: str) -> Iterator[str]:
    """What is wrong with SHA256SUMS, whose digest is signed, or with a file it lists."""
    others = {name: content for name, content in files.items() if name not in ("BUNDLE", "SHA256SUMS")}
    lines = [line.split("  ") for line in files["SHA256SUMS"].decode().splitlines()]
    listed = {name: digest for digest, name in lines}
    if hashlib.sha256(files["SHA256SUMS"]).hexdigest() != signed:
        yield "SHA256SUMS is not the one that was signed"
    for name in sorted(listed.keys() | others.keys()):
        digest = hashlib.sha256(others[name]).hexdigest() if name in others else None
        if digest is None:
            yield f"{name} is listed and missing"
        elif name not in listed:
            yield f"{name} is there and not listed"
        elif listed[name] != digest:
            yield f"{name} was changed after the bundle was made"
        if name.startswith("blobs/") and digest is not None and name != f"blobs/{digest}":
            yield f"{name} has another content than its name says"


def wrong_with_contents(
    files: dict[str, bytes], heads: dict[int, tuple[int, str]], signed: dict[str, int]
) -> Iterator[str]:
    """What is wrong with records, with witnesses told from them, and with what else there is."""
    calls: dict[str | None, list[bytes]] = {}  # as lines: read, they take ten times the room
    runs: dict[str | None, Record] = {}
    samples: dict[str | None, Any] = {}
    named_blobs: set[str] = set()
    count = purged = 0
    for record in proven_records(files, heads):
        if isinstance(record, Fault):
            yield str(record)
            continue
        count, purged = count + 1, purged + record.purged
        named_blobs |= record.blobs
        if ASKED <= record.kind <= FINISHED:
            calls.setdefault(hexed(record.leaf["call_id"]), []).append(record.text)
        elif record.kind == RUN_STARTED:
            runs[hexed(record.leaf["run_id"])] = record
        elif record.kind == EVENT:
            samples[hexed(record.leaf["event_id"])] = record.payload.get("sample")
    witnesses = [name for name in files if name.startswith("witnesses/")]
    for name in witnesses:
        witness = json.loads(files[name])
        of_it = calls.pop(witness["id"], None)
        if of_it is None or f"_{witness['id']}.witness.json" not in name:
            yield f"{name} has no records here"
        else:
            records = {record.kind: record for record in (Record(text, files) for text in of_it)}
            wrong = differences(witness, records, runs.get(witness["run_id"]), samples)
            if wrong:
                yield f"{name} is not what its records say: {', '.join(wrong)}"
    yield from (f"call {call} has records and no witness" for call in calls)
    blobs = {name.removeprefix("blobs/") for name in files if name.startswith("blobs/")}
    yield from (f"blobs/{blob} belongs to no record" for blob in sorted(blobs - named_blobs))
    found = (len(witnesses), count, len(blobs), purged, len(named_blobs - blobs))
    for what, there in zip(COUNTED, found, strict=True):
        if signed[what] != there:
            yield f"there are {there} {what} and {signed[what]} were signed for"


def main(arguments: list[str]) -> int:
    if not arguments or len(arguments) not in (1, 3) or arguments[1:2] not in ([], ["--key"]):
        sys.stderr.write("usage: verify.py BUNDLE.tar.gz [--key FILE]\n")
        return 2
    try:
        trusted = None
        if len(arguments) == 3:
            with open(arguments[2], encoding="utf-8") as file:
                trusted = file.read().split()
        with open(arguments[0], "rb") as file:
            report = check(file, trusted)
    except (OSError, Unreadable, UnicodeDecodeError) as error:
        sys.stderr.write(f"cannot open it: {error}\n")
        return 2
    for fault in report["faults"]:
        say(f"FAULT  {fault}")
    if report["faults"]:
        return 1
    say("all as signed by {origin} at {time}".format(**report))
    say(", ".join(f"{name} {report[name]}" for name in (*COUNTED, "omitted", "unsigned")))
    if report["key"] == "enclosed":
        say("the key came with the bundle: compare key.pub with the store's, or give it with --key")
    return 0


def say(text: str) -> None:
    """A line, without anything in it that would steer a terminal."""
    sys.stdout.write("".join(one if one.isprintable() else "?" for one in text) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
