"""`custody export otel`, as a process, and how its destination is spelled."""

import json
import signal
import subprocess
import sys
import time

import pytest
from tests.bridges.collector import SILENT_SECONDS, Collector, collecting
from tests.cli.conftest import Program

from custody.bridges.otel.background import STOP_SECONDS
from custody.bridges.otel.destination import OtelSection, destination_of
from custody.errors import InvalidSetting, UsageError

ENDED_SECONDS_MAX = 60.0  # a test that hangs fails instead
BUSY_SECONDS = 20.0  # what a busy machine adds to a stop; a request would wait for `SILENT_SECONDS`

SENDS_ALL = f"""
from custody.bridges.otel.background import BackgroundExport
from custody.cli import main
BackgroundExport.stop.__defaults__ = ({ENDED_SECONDS_MAX},)
main()
"""
"""The command line, whose follower has time at its end also on a machine that is busy."""

WAITS_LONG = f"""
from custody.bridges.otel.exporter import Exporter, Pace
from custody.cli import main
Exporter.__init__.__kwdefaults__["pace"] = Pace(send_seconds={SILENT_SECONDS})
main()
"""


@pytest.fixture
def custody(tmp_path):
    (tmp_path / "program").mkdir()
    program = Program(tmp_path / "program")
    yield program
    program.close()


def acts(custody: Program, count: int = 1) -> None:
    for _ in range(count):
        assert custody("exec", "--agent", "builder", "--", "true").code == 0


def following(
    custody: Program, collector: Collector, *more: str, program: str = SENDS_ALL
) -> "subprocess.Popen[bytes]":
    """`custody export otel --follow`, beside the test."""
    where = ("--endpoint", collector.endpoint, "--protocol", collector.protocol)
    follower = subprocess.Popen(
        [sys.executable, "-c", program, "export", "otel", "--follow", *where, *more],
        cwd=custody.work, env=custody.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    custody.started.append(follower)
    return follower


def test_what_is_on_the_record_is_exported_and_counted(custody, collector):
    acts(custody)

    done = custody("export", "otel", "--endpoint", collector.endpoint, "--protocol", collector.protocol)

    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("2 spans exported to http://127.0.0.1:")
    assert sorted(span.name for span in collector.spans) == ["execute_tool exec", "invoke_agent builder"]
    assert b"true" not in b"".join(collector.raw)


def test_with_json_there_is_one_document(custody, http):
    acts(custody)

    done = custody("export", "otel", "--endpoint", http.endpoint, "--content", "--json")

    assert done.code == 0
    assert {key: done.json[key] for key in ("spans", "rejected", "unreadable", "remaining", "metrics")} == {
        "spans": 2, "rejected": 0, "unreadable": 0, "remaining": 0, "metrics": True
    }  # fmt: skip
    assert b"true" in b"".join(http.raw)
    assert custody("export", "otel", "--endpoint", http.endpoint, "--json").json["spans"] == 0
    again = custody("export", "otel", "--endpoint", http.endpoint, "--json", "--from-start")
    assert again.json["spans"] == 2


def test_the_variables_of_opentelemetry_are_defaults(custody, http):
    acts(custody)

    done = custody(
        "export", "otel", "--header", "X-Team=blue",
        OTEL_EXPORTER_OTLP_ENDPOINT=http.endpoint,
        OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
        OTEL_EXPORTER_OTLP_HEADERS="X-Team=red,Authorization=Bearer%20geheim",
    )  # fmt: skip

    assert done.code == 0
    assert http.headers[0]["Authorization"] == "Bearer geheim"
    assert http.headers[0]["X-Team"] == "blue"
    assert "geheim" not in custody("tail").out


def test_nobody_there_is_1_and_says_what_remains(custody, kind):
    acts(custody)
    with collecting(kind, up=False) as collector:
        arguments = ("export", "otel", "--endpoint", collector.endpoint, "--protocol", collector.protocol)
        done = custody(*arguments)
        assert (done.code, done.out) == (1, "")
        assert "0 spans exported, 2 remain" in done.err
        as_json = custody(*arguments, "--json")
        assert (as_json.code, as_json.json["error"]["type"]) == (1, "ExportFailed")

        collector.up()
        assert custody(*arguments).out.startswith("2 spans exported")


def test_spans_that_are_rejected_are_shown(custody, http):
    acts(custody)
    http.answers = [("partial", 1, "names must be blue")]

    done = custody("export", "otel", "--endpoint", http.endpoint)

    assert done.code == 0
    assert "1 span exported" in done.out
    assert "1 rejected" in done.out
    assert "names must be blue" in done.out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_follower_ends_on_a_signal_with_what_was_recorded_sent(custody, http, number):
    acts(custody)
    follower = following(custody, http, "--json")
    http.wait_for(lambda: len(http.spans) == 2)
    acts(custody)
    follower.send_signal(number)
    out, _ = follower.communicate(timeout=ENDED_SECONDS_MAX)

    assert follower.returncode == 128 + number
    assert json.loads(out)["remaining"] == 0
    assert len({span.span_id for span in http.spans}) == 4
    assert custody("export", "otel", "--endpoint", http.endpoint, "--json").json["spans"] == 0


@pytest.mark.long
def test_a_follower_ends_in_time_beside_a_collector_that_never_answers(custody, kind):
    acts(custody)
    with collecting(kind) as collector:
        collector.answers = ["silent"] * 10
        follower = following(custody, collector, program=WAITS_LONG)
        collector.wait_for(lambda: collector.asked)
        began = time.monotonic()
        follower.send_signal(signal.SIGTERM)
        follower.communicate(timeout=ENDED_SECONDS_MAX)

        assert follower.returncode == 128 + signal.SIGTERM
        assert time.monotonic() - began < STOP_SECONDS + BUSY_SECONDS


def test_after_a_follower_was_killed_everything_arrives(custody, http):
    acts(custody)
    follower = following(custody, http)
    http.wait_for(lambda: len(http.spans) == 2)
    follower.kill()
    follower.communicate(timeout=ENDED_SECONDS_MAX)
    acts(custody)

    assert custody("export", "otel", "--endpoint", http.endpoint).code == 0

    same = {span.span_id: span.SerializeToString(deterministic=True) for span in http.spans}
    assert len(same) == 4
    assert {span.SerializeToString(deterministic=True) for span in http.spans} == set(same.values())


def test_only_one_process_exports_to_one_place(custody, http):
    acts(custody)
    follower = following(custody, http)
    http.wait_for(lambda: len(http.spans) == 2)

    done = custody("export", "otel", "--endpoint", http.endpoint)

    assert done.code == 1
    assert "Another process exports" in done.err
    follower.send_signal(signal.SIGTERM)
    follower.communicate(timeout=ENDED_SECONDS_MAX)
    assert custody("export", "otel", "--endpoint", http.endpoint).code == 0


def test_a_missing_package_is_answered_with_its_pip_line(custody, tmp_path):
    acts(custody)
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['opentelemetry'] = None\n")

    done = custody("export", "otel", PYTHONPATH=str(tmp_path))

    assert done.code == 2
    assert "pip install 'custody-runtime[otel]'" in done.err


def test_another_machine_without_tls_is_refused(custody):
    acts(custody)

    done = custody("export", "otel", "--endpoint", "http://192.0.2.1:4318")

    assert done.code == 2
    assert "without TLS" in done.err


# -- how a destination is spelled ---------------------------------------------------------------------


def destination(endpoint, protocol=None, **section):
    return destination_of(OtelSection(**section), {}, endpoint=endpoint, protocol=protocol)


@pytest.mark.parametrize(
    ("endpoint", "protocol", "host", "port", "path", "secure"),
    [
        (None, None, "localhost", 4318, "", False),
        (None, "grpc", "localhost", 4317, "", False),
        ("http://localhost:4318/", "http", "localhost", 4318, "", False),
        ("https://otlp.example.com/otlp/v1/traces", "http", "otlp.example.com", 443, "/otlp", True),
        ("127.0.0.1:4317", "grpc", "127.0.0.1", 4317, "", False),
        ("collector.example.com:4317", "grpc", "collector.example.com", 4317, "", True),
        ("http://[::1]:4318", "http/protobuf", "::1", 4318, "", False),
    ],
)
def test_an_endpoint_is_read(endpoint, protocol, host, port, path, secure):
    found = destination(endpoint, protocol)

    assert (found.host, found.port, found.path, found.secure) == (host, port, path, secure)


@pytest.mark.parametrize(
    "endpoint",
    ["ftp://localhost", "http://", "https://me:secret@host", "https://host/?key=secret", "http://host:port"],
)
def test_an_endpoint_that_makes_no_sense_or_holds_a_secret_is_refused(endpoint):
    with pytest.raises(InvalidSetting) as caught:
        destination(endpoint)

    assert "secret@" not in str(caught.value)


def test_what_is_asked_for_wins_over_settings_and_those_over_variables():
    section = OtelSection(endpoint="http://localhost:2", headers={"b": "settings", "c": "settings"})
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:3",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        "OTEL_EXPORTER_OTLP_HEADERS": "a=variable,b=variable",
    }

    found = destination_of(section, environ, headers={"c": "asked"})
    asked = destination_of(section, environ, endpoint="http://localhost:1", protocol="http")

    assert (found.port, found.protocol) == (2, "grpc")
    assert dict(found.headers) == {"a": "variable", "b": "settings", "c": "asked"}
    assert (asked.port, asked.protocol) == (1, "http")


@pytest.mark.parametrize("headers", [{"a b": "x"}, {"a": "x\r\nHost: y"}, {"": "x"}, {"a": "ü"}])
def test_a_header_that_cannot_be_sent_is_refused_without_its_value(headers):
    with pytest.raises(InvalidSetting) as caught:
        destination_of(OtelSection(headers=headers), {})

    assert "Host: y" not in str(caught.value)


def test_a_protocol_that_is_not_spoken_is_refused():
    with pytest.raises(UsageError):
        destination(None, "http/json")


def test_another_machine_without_tls_may_be_allowed():
    assert not destination("http://10.0.0.1:4318", insecure=True).secure


def test_a_place_has_one_name_whatever_is_sent_along():
    plain, other = destination("http://localhost:4318"), destination("http://localhost:4317")
    with_headers = destination("http://localhost:4318/v1/traces", headers={"a": "b"})

    assert plain.name == with_headers.name != other.name
