"""A small store with every kind of call, bundles of it, and what somebody may do to one."""

import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import custody
from custody.bridges.bundle import BundleMaker, Limits, Made, Selection, StoreEvidence, check_bundle, verify
from custody.checkpoints import load_keys
from custody.index import Index
from custody.journal import Journal, RealDisk
from custody.journal.checkpoint import Signature, Signer, Verifier
from custody.recorder import Recorder
from custody.stores import make_recorder, open_index

EVERYTHING = Selection()
NO_LIMITS = Limits()
STRANGE_TOOL = "../a/b %_~ü" * 9
LARGE = "large " * 20_000


@custody.tool(effect="read")
def odd(what: str) -> Any:
    """Gives back what JSON cannot hold, or fails."""
    if what == "fail":
        raise ValueError("it failed")
    values = {
        "float": float("inf"),
        "bytes": b"\0\xff",
        "int": 2**70,
        "small": -40_000,
        "some": [1.5, None, -3],
    }
    return LARGE if what == "large" else values


def record_some(store: Path, *, session: str | None = "s1", name: str = "nightly") -> None:
    """A run with calls that succeeded, failed, were rejected, observed, large or strange; and a step."""
    with custody.open(store, session=session, agent="builder", caller="ada") as runtime:
        with runtime.run("try things", name=name) as run:
            run.call(odd, {"what": "values"})
            run.call(odd, {"what": "fail"})
            run.call(odd, {"what": "large"})
            run.call("no_such_tool", {})
            with run.observe(STRANGE_TOOL, {"token": "geheim", "ü": 1}) as call:
                call.result = {"text": "ä" * 300}
            run.step("done", model="m")
            run.event("app.note", said="something")
        runtime.call(odd, {"what": "values"})


class Opened:
    """The store, looked at by another process would be the same."""

    def __init__(self, store: Path) -> None:
        self.disk = RealDisk(os.fspath(store))
        self.journal = Journal(self.disk)
        self.index: Index = open_index(os.fspath(store), self.journal)
        self.recorder: Recorder = make_recorder(self.disk, self.journal, {})
        self.evidence = StoreEvidence(self.disk, self.journal, self.record)
        self.maker = BundleMaker(self.journal, lambda: self.index, self.evidence)

    def record(self, name: str, data: dict[str, Any]) -> None:
        self.recorder.event(name, data, leaf_data=True)

    def bundle(
        self, selection: Selection = EVERYTHING, limits: Limits = NO_LIMITS, *, zstd: bool = False
    ) -> tuple[bytes, Made]:
        out = io.BytesIO()
        made = self.maker.make(selection, limits, out, zstd=zstd)
        return out.getvalue(), made

    @property
    def signer(self) -> Signer:
        keys = load_keys(self.disk)
        assert keys is not None
        return keys.signer

    def close(self) -> None:
        self.evidence.close()
        self.index.close()
        self.journal.close()


# -- looking into one ---------------------------------------------------------------------------------


def files_of(bundle: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(bundle)) as tar:
        return {info.name: tar.extractfile(info).read() for info in tar}


def witnesses_of(files: dict[str, bytes]) -> dict[str, Any]:
    return {name: json.loads(data) for name, data in files.items() if name.startswith("witnesses/")}


def records_of(files: dict[str, bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in files["records.jsonl"].splitlines()]


def facts_of(files: dict[str, bytes]) -> dict[str, Any]:
    return json.loads(files["BUNDLE"].splitlines()[1])


def faults_of(bundle: bytes, trusted: tuple[Verifier, ...] | None = None) -> list[str]:
    return check_bundle(io.BytesIO(bundle), trusted)["faults"]


def run_verify(folder: Path, bundle: bytes, *options: str, program: bytes | None = None) -> tuple[int, str]:
    """What the program in the bundle says of a file, run with nothing of Custody's in reach."""
    work = folder / "elsewhere"
    work.mkdir(exist_ok=True)
    (folder / "bundle").write_bytes(bundle)
    source = folder / "verify.py"
    source.write_bytes(program or Path(verify.__file__).read_bytes())
    done = subprocess.run(
        [sys.executable, "-I", os.fspath(source), os.fspath(folder / "bundle"), *options],
        cwd=work, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert list(work.iterdir()) == [], "it writes nothing"
    return done.returncode, done.stdout + done.stderr


# -- making others of it ------------------------------------------------------------------------------


def header(name: str, size: int, **fields: Any) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.USTAR_FORMAT)


def packed(members: list[tuple[bytes, bytes]]) -> bytes:
    tar = b"".join(head + data + bytes(-len(data) % 512) for head, data in members)
    return zipped(tar + bytes(1024))


def zipped(tar: bytes) -> bytes:
    whole = gzip.compress(tar)[10:]
    return verify.GZIP_START + hashlib.sha256(whole).digest() + whole


def repacked(files: dict[str, bytes]) -> bytes:
    """The same files in an archive of the right form, as anybody could make it."""
    return packed([(header(name, len(data)), data) for name, data in sorted(files.items())])


def resummed(files: dict[str, bytes]) -> dict[str, bytes]:
    """With a list that fits the files, though nobody signed it."""
    others = {name: data for name, data in files.items() if name not in ("BUNDLE", "SHA256SUMS")}
    lines = (f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(others.items()))
    return {**files, "SHA256SUMS": "".join(lines).encode()}


def resigned(files: dict[str, bytes], signer: Signer, **facts: Any) -> dict[str, bytes]:
    """As whoever has the store's key could make it: list and signature fit whatever the files are."""
    files = resummed(files)
    said = {**facts_of(files), **facts, "sha256sums": hashlib.sha256(files["SHA256SUMS"]).hexdigest()}
    text = f"custody-bundle/1\n{json.dumps(said)}\n".encode()
    line = Signature(signer.name, signer.key_hash, signer.sign(text)).line()
    return {**files, "BUNDLE": text + b"\n" + line}


def with_records(files: dict[str, bytes], change: Callable[[list[dict[str, Any]]], Any]) -> dict[str, bytes]:
    records = records_of(files)
    change(records)
    return {**files, "records.jsonl": "".join(json.dumps(line) + "\n" for line in records).encode()}
