"""What leaves a store in which everything was planted: spans, files and bundles."""

import gzip
import importlib.util
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.bridges.collector import GrpcCollector, HttpCollector, collecting
from tests.cli.conftest import Program
from tests.evidence.planting import (
    KNOWN,
    by_form,
    by_surroundings,
    files_of,
    known_values,
    leaks,
    no_trace,
)

import custody

EVERYTHING = (*by_form(), *by_surroundings(), *known_values())


@custody.tool(effect="read")
def look(what: Any) -> Any:
    return what


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    """The command line, and a store in which everything was planted."""
    (tmp_path / "program").mkdir()
    program = Program(tmp_path / "program")
    program.environment |= KNOWN
    filler = "The quick brown fox jumps over the lazy dog.\n" * 3_000
    with program.recording() as runtime, runtime.run("work", agent="builder") as run:
        for secret in EVERYTHING:
            run.call(look, {"what": {"text": secret.text, secret.text: 1}})
            run.step(f"I use {secret.text}", model="m", data=secret.text)
            run.event("noted", text=secret.text)
            with run.observe(f"tool {secret.text}", {"a": secret.text}) as call:
                call.fail(secret.text)
        run.call("exec", {"argv": ["cat"], "stdin": filler + "\n".join(s.text for s in EVERYTHING)})
    yield program
    program.close()


@pytest.mark.parametrize("kind", [HttpCollector, GrpcCollector], ids=["http", "grpc"])
def test_spans_with_content_have_no_secret(program: Program, kind: Any):
    with collecting(kind) as collector:
        where = ("--endpoint", collector.endpoint, "--protocol", collector.protocol)
        done = program("export", "otel", "--content", *where)
        assert done.code == 0, done.err
        assert len(collector.spans) > len(EVERYTHING)
        sent = b"\n".join(collector.raw)
    found = leaks(EVERYTHING, [("spans", sent), ("output", (done.out + done.err).encode())])
    assert found == [], "\n".join(found)
    no_trace(EVERYTHING, program.store)


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_tables_have_no_secret(program: Program, form: str):
    if form == "parquet" and importlib.util.find_spec("pyarrow") is None:
        pytest.skip("pyarrow is not installed")
    out = program.folder / f"calls.{form}"
    done = program("export", "--format", form, "--out", str(out))
    assert done.code == 0, done.err
    data = out.read_bytes()
    if form == "parquet":
        import pyarrow.parquet

        rows = pyarrow.parquet.read_table(out).to_pylist()
        assert len(rows) > len(EVERYTHING)
        data += repr(rows).encode()
    assert len(data) > 10_000
    found = leaks(EVERYTHING, [(form, data), ("output", (done.out + done.err).encode())])
    assert found == [], "\n".join(found)


def test_a_bundle_has_no_secret(program: Program):
    out = program.folder / "bundle.tar.gz"
    done = program("export", "--bundle", str(out))
    assert done.code == 0, done.err
    packed = gzip.decompress(out.read_bytes())
    with tarfile.open(fileobj=io.BytesIO(packed)) as bundle:
        members = {member.name: bundle.extractfile(member) for member in bundle if member.isfile()}
        assert any(name.endswith(".witness.json") for name in members)
        stretches = [(name, file.read()) for name, file in members.items() if file is not None]
    stretches += [("names", "\n".join(members).encode()), ("output", (done.out + done.err).encode())]
    stretches += list(decoded_records(stretches))
    found = leaks(EVERYTHING, stretches)
    assert found == [], "\n".join(found)
    assert sum(len(data) for _, data in files_of(program.store)) > 100_000


def decoded_records(stretches: list[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
    """Every long text of the bundle's JSON that is Base64, as bytes."""
    import base64
    import re

    for name, data in list(stretches):
        for text in re.findall(rb'"([A-Za-z0-9+/]{64,}={0,2})"', data):
            if len(text) % 4 == 0:
                yield f"{name} (decoded)", base64.b64decode(text)
