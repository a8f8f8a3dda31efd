"""`custody export --bundle`, as a process: the file, what is told of it, and what becomes of bad input."""

import hashlib
import io
import json
import os
import resource
import stat
import subprocess
import sys

import pytest
from tests.bridges.bundles import facts_of, faults_of, files_of, run_verify, witnesses_of

BUNDLE = "audit.tar.gz"


@pytest.fixture
def acted(custody):
    assert custody("exec", "--run", "nightly", "--", "echo", "one").code == 0
    assert custody("exec", "--", "false").code == 1
    return custody


def test_a_bundle_is_made_told_of_and_holds(acted, tmp_path):
    done = acted("export", "--bundle", BUNDLE)
    path = acted.work / BUNDLE
    data = path.read_bytes()

    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("2 calls, ")
    assert f"sha256 {hashlib.sha256(data).hexdigest()}" in done.out
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    code, said = run_verify(tmp_path, data, "--key", os.fspath(acted.store / "keys" / "checkpoint.pub"))
    assert code == 0, said
    assert [entry.name for entry in acted.work.iterdir()] == [BUNDLE]


def test_with_json_there_is_one_document_and_the_record_says_that_it_was_made(acted):
    told = acted("export", "--bundle", BUNDLE, "--run", "nightly", "--json").json

    assert (told["bundle"], told["calls"], told["omitted"], told["unsigned"]) == (BUNDLE, 1, 0, 0)
    (made,) = [json.loads(line) for line in acted("tail", "--json").out.splitlines() if "bundle.made" in line]
    assert {name: made["data"][name] for name in ("calls", "run", "sha256")} == {
        "calls": 1, "run": "nightly", "sha256": told["sha256"]
    }  # fmt: skip


def test_calls_are_chosen_by_number_tool_and_run(acted):
    acted("call", "file_list", "--args", '{"path": "."}')

    def tools(*options):
        done = acted("export", "--bundle", BUNDLE, "--force", *options)
        assert done.code == 0, done.err
        return [call["tool"] for call in witnesses_of(files_of((acted.work / BUNDLE).read_bytes())).values()]

    assert tools("--last", "1") == ["file_list"]
    assert tools("--tool", "exec") == ["exec", "exec"]
    assert tools("--tool", "glob:file_*") == ["file_list"]
    assert tools("--run", "nightly") == ["exec"]
    assert acted("export", "--bundle", BUNDLE, "--force", "--run", "nobody").code == 2


def test_zstd_is_a_choice(acted):
    assert acted("export", "--bundle", "audit.tar.zst", "--zstd").code == 0

    assert faults_of((acted.work / "audit.tar.zst").read_bytes()) == []


def test_standard_output_takes_it_and_a_terminal_does_not(acted):
    done = subprocess.run(
        acted.command("export", "--bundle", "-"), cwd=acted.work, env=acted.environment, capture_output=True,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == 0
    assert faults_of(done.stdout) == []
    assert "A terminal cannot show this" in acted.at_terminal("export", "--bundle", "-", columns=100, code=2)


def test_what_is_there_is_not_overwritten_unless_it_may_be(acted):
    (acted.work / BUNDLE).write_text("precious")

    done = acted("export", "--bundle", BUNDLE)

    assert (done.code, done.out) == (2, "")
    assert "--force" in done.err
    assert (acted.work / BUNDLE).read_text() == "precious"
    assert acted("export", "--bundle", BUNDLE, "--force").code == 0
    assert faults_of((acted.work / BUNDLE).read_bytes()) == []


def test_a_link_is_not_followed(acted):
    (acted.work / "precious").write_text("precious")
    (acted.work / BUNDLE).symlink_to("precious")

    assert acted("export", "--bundle", BUNDLE).code == 2
    assert acted("export", "--bundle", BUNDLE, "--force").code == 0
    assert (acted.work / "precious").read_text() == "precious"


def test_where_nothing_matches_there_is_no_file_and_1(acted):
    done = acted("export", "--bundle", BUNDLE, "--tool", "nobody")
    as_json = acted("export", "--bundle", BUNDLE, "--tool", "nobody", "--json")

    assert (done.code, as_json.code) == (1, 1)
    assert "No call matches" in done.err
    assert as_json.json["error"]["type"] == "ExportFailed"
    assert list(acted.work.iterdir()) == []


SENSELESS: tuple[tuple[str, ...], ...] = (
    (),
    ("--bundle", "x", "--format", "jsonl"),
    ("--bundle", "x", "--session", "s"),
    ("--bundle", "x", "--out", "y"),
    ("--bundle", "-", "--json"),
    ("--bundle", "x", "--last", "0"),
    ("--bundle", "x", "--tool", "glob:"),
    ("--bundle", "."),
    ("--bundle", "no/such/folder"),
    ("--format", "xml"),
    ("--format", "jsonl", "--last", "3"),
    ("--format", "jsonl", "--json"),
    ("--bundle", "x", "otel"),
)


def test_what_makes_no_sense_is_2_and_leaves_nothing(acted):
    for options in SENSELESS:
        done = acted("export", *options)

        assert (done.code, done.out if "--json" not in options else "") == (2, ""), options
        assert list(acted.work.iterdir()) == [], options


def test_a_disk_that_takes_no_more_leaves_nothing_behind(acted):
    """A limit on the size of files stands in for the disk."""
    acted(
        "exec", "--", sys.executable, "-c", "import random; print(random.Random(1).randbytes(60_000).hex())"
    )
    limit = 64 * 1024

    done = subprocess.run(
        acted.command("export", "--bundle", BUNDLE), cwd=acted.work, env=acted.environment,
        capture_output=True, text=True, timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip

    assert done.returncode in (1, 5), done.stderr
    assert "is not written" in done.stderr or "too large" in done.stderr.lower()
    assert list(acted.work.iterdir()) == []


def test_each_bundle_signs_what_is_new_and_takes_nothing_back(acted):
    acted("export", "--bundle", "first.tar.gz")
    log = acted.store / "checkpoints" / "log"
    before = log.read_bytes()
    acted("exec", "--", "true")

    assert acted("export", "--bundle", BUNDLE).code == 0

    assert log.read_bytes().startswith(before)
    assert facts_of(files_of((acted.work / BUNDLE).read_bytes()))["calls"] == 3


def test_no_key_no_bundle(acted):
    acted("export", "--bundle", "first.tar.gz")
    (acted.store / "keys" / "checkpoint.key").unlink()

    done = acted("export", "--bundle", BUNDLE)

    assert done.code != 0
    assert "key" in done.err
    assert [entry.name for entry in acted.work.iterdir()] == ["first.tar.gz"]


def test_the_same_tool_at_the_terminal_gives_the_whole_store(acted):
    import base64

    called = acted("call", "witness_download", "--json").json

    assert called["outcome"] == "succeeded"
    assert called["result"]["count"] == 2
    assert faults_of(base64.b64decode(called["result"]["data"])) == []
    shown = acted("show", called["id"], "--json").json
    assert shown["result"]["data"] is None
    assert (
        io.BytesIO(base64.b64decode(called["result"]["data"])).getbuffer().nbytes == called["result"]["bytes"]
    )


def test_killed_in_the_middle_it_leaves_the_name_free_and_the_store_whole(acted):
    """The kill comes at the first sight of the file that is being filled, or after the end."""
    for _ in range(5):
        before = set(acted.work.glob(".*.part"))
        process = acted.start(
            "export", "--bundle", BUNDLE, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        while process.poll() is None and before.issuperset(acted.work.glob(".*.part")):
            pass
        process.kill()
        process.wait()
        bundle = acted.work / BUNDLE
        if bundle.exists():
            assert faults_of(bundle.read_bytes()) == []
            bundle.unlink()
    for left in acted.work.glob(".*.part"):
        assert stat.S_IMODE(left.stat().st_mode) == 0o600

    assert acted("export", "--bundle", BUNDLE).code == 0
    assert faults_of((acted.work / BUNDLE).read_bytes()) == []


def test_jsonl_and_parquet_go_where_they_are_sent(acted):
    calls = acted("export", "--format", "jsonl").out.splitlines()
    assert [json.loads(line)["id"] for line in calls] == [
        call["id"] for call in acted("calls", "--all", "--json").json["items"]
    ]
    told = acted("export", "--format", "jsonl", "--records", "--out", "r.jsonl", "--json").json
    assert told == {
        "file": "r.jsonl",
        "format": "jsonl",
        "records": len((acted.work / "r.jsonl").read_bytes().splitlines()),
    }
    table = pytest.importorskip("pyarrow.parquet")
    told = acted("export", "--format", "parquet", "--out", "r.parquet", "--run", "nightly", "--json").json
    assert table.read_table(acted.work / "r.parquet").num_rows == told["records"] > 0
    assert acted("export", "--format", "parquet", "--out", "r.parquet").code == 2
    assert "no text" in acted.at_terminal("export", "--format", "parquet", columns=100, code=2)


def test_without_pyarrow_parquet_is_answered_with_its_pip_line(acted, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['pyarrow'] = None\n")

    done = acted("export", "--format", "parquet", "--out", "r.parquet", PYTHONPATH=str(tmp_path))

    assert done.code == 2
    assert "pip install 'custody-runtime[parquet]'" in done.err
    assert list(acted.work.iterdir()) == []


def test_a_bundle_is_verified_at_the_command_line(acted):
    acted("export", "--bundle", BUNDLE)
    path = acted.work / BUNDLE

    assert acted("verify", "--bundle", BUNDLE).code == 0
    key = os.fspath(acted.store / "keys" / "checkpoint.pub")
    told = acted("verify", "--bundle", BUNDLE, "--public-key", key, "--json").json
    assert (told["ok"], told["calls"], told["keys_given"]) == (True, 2, True)
    path.write_bytes(path.read_bytes()[:-1])
    done = acted("verify", "--bundle", BUNDLE)
    assert (done.code, "cut short" in done.out) == (1, True)
    assert acted("verify", "--bundle", "nowhere").code == 2
