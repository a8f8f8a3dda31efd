"""What becomes of an export when the collector is down, slow, picky, or gone for good."""

import datetime as dt
import ipaddress
import threading
import time
from http.client import HTTPConnection

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.bridges.collector import (
    SILENT_SECONDS,
    WAIT_SECONDS_MAX,
    GrpcCollector,
    HttpCollector,
    attributes,
    collecting,
)
from tests.bridges.conftest import add, finish

import custody
from custody.bridges.otel.background import STOP_SECONDS, BackgroundExport
from custody.bridges.otel.exporter import Exporter, Pace

BUSY_SECONDS = 20.0  # what a busy machine adds; a request would wait for `SILENT_SECONDS`
STOP_SECONDS_MAX = STOP_SECONDS + BUSY_SECONDS


def unique(collector) -> list[bytes]:
    ids = [span.span_id for span in collector.spans]
    assert len(ids) == len(set(ids)), "a span arrived twice"
    return ids


def patient(send_seconds: float) -> Pace:
    return Pace(poll_seconds=0.01, backoff_seconds=0.01, backoff_seconds_max=0.05, send_seconds=send_seconds)


def test_what_was_recorded_while_the_collector_was_down_arrives_when_it_is_up(recorded, kind):
    with collecting(kind, up=False) as collector, recorded.exporting(collector) as exporting:
        export = exporting.background()
        recorded.calls(3)
        assert collector.spans == []
        collector.up()
        collector.wait_for(lambda: len(collector.spans) == 4)
        finish(export)

        assert len(unique(collector)) == 4
    assert sum(event.data["spans"] for event in recorded.events("export.advanced")) == 4


def test_an_export_to_nobody_fails_at_once_and_moves_nothing(recorded, kind):
    recorded.calls(2)
    with collecting(kind, up=False) as collector:
        exporter = recorded.export(collector)

        assert exporter.failure.kind == "unreachable"
        assert recorded.events("export.advanced") == []
        collector.up()
        assert recorded.export(collector).progress.spans == 3


def test_a_follower_sends_what_is_recorded_while_it_follows(recorded, collector):
    with recorded.exporting(collector) as exporting:
        export = exporting.background()
        for count in (1, 2, 3):
            recorded.calls(1)
            collector.wait_for(lambda count=count: len(collector.spans) == 2 * count)
        finish(export)

        assert len(unique(collector)) == 6


def test_a_collector_that_accepts_and_never_answers_is_let_go(recorded, kind):
    recorded.calls(1)
    with collecting(kind) as collector:
        collector.answers = ["silent"] * 10
        exporter = recorded.export(collector, pace=patient(0.2))

        assert exporter.failure.kind == "unreachable"
        collector.answers.clear()  # it need not have come so far as to ask
        collector.released.set()
        assert recorded.export(collector).progress.spans == 2


def test_a_collector_that_answers_a_byte_at_a_time_is_let_go_too(recorded, http):
    recorded.calls(1)
    http.answers = ["trickling"]

    exporter = recorded.export(http, pace=patient(0.3))

    assert exporter.failure.kind == "unreachable"
    assert "no answer within 0.3 s" in exporter.failure.words


def test_it_is_let_go_too_when_the_time_was_over_with_the_connection(recorded, http, monkeypatch):
    recorded.calls(1)
    http.answers = ["trickling"]
    connect = HTTPConnection.connect

    def slowly(connection: HTTPConnection) -> None:
        connect(connection)
        for alarm in threading.enumerate():
            if isinstance(alarm, threading.Timer):
                alarm.join()

    monkeypatch.setattr(HTTPConnection, "connect", slowly)

    exporter = recorded.export(http, pace=patient(0.3))

    assert exporter.failure.kind == "unreachable"
    assert "no answer within 0.3 s" in exporter.failure.words


def test_a_stop_before_the_thread_has_begun_sends_what_is_left_too(recorded, http):
    recorded.calls(1)
    stops = []
    with recorded.exporting(http) as exporting:

        def make(stop: threading.Event) -> Exporter:
            stops.append(stop)
            return exporting.make(stop)

        export = BackgroundExport(exporting.view.journal, exporting.view.index, make)
        stops[0].set()
        export.start()
        assert export.wait(WAIT_SECONDS_MAX)

    assert len(unique(http)) == 2


def test_a_stop_does_not_wait_for_a_collector_that_never_answers(recorded, kind):
    recorded.calls(1)
    with (
        collecting(kind) as collector,
        recorded.exporting(collector, pace=patient(SILENT_SECONDS)) as exporting,
    ):
        collector.answers = ["silent"] * 10
        export = exporting.background()
        collector.wait_for(lambda: collector.asked == 1)
        began = time.monotonic()
        export.stop()

        assert time.monotonic() - began < STOP_SECONDS_MAX
        assert export.wait(BUSY_SECONDS), "the request was not cut off"


def test_a_stop_sends_what_is_left(recorded, collector):
    pace = Pace(poll_seconds=30, backoff_seconds=30)
    with recorded.exporting(collector, pace=pace) as exporting:
        export = exporting.background()
        recorded.calls(1)
        finish(export)

        assert len(unique(collector)) == 2
    assert len(recorded.events("export.advanced")) == 1


@pytest.mark.parametrize("status", [503, [429, {"Retry-After": "0"}], 502])
def test_a_collector_that_is_busy_is_asked_again_over_http(recorded, http, status):
    recorded.calls(1)
    http.answers = [status, status]
    with recorded.exporting(http) as exporting:
        export = exporting.background()
        http.wait_for(lambda: len(http.metrics_requests) == 1)
        finish(export)

    assert len(unique(http)) == 2
    assert http.total("custody.calls") == 1


@pytest.mark.parametrize("code", ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "ABORTED"])
def test_a_collector_that_is_busy_is_asked_again_over_grpc(recorded, code):
    recorded.calls(1)
    with collecting(GrpcCollector) as collector, recorded.exporting(collector) as exporting:
        collector.answers = [grpc.StatusCode[code]] * 2
        export = exporting.background()
        collector.wait_for(lambda: len(collector.metrics_requests) == 1)
        finish(export)

        assert len(unique(collector)) == 2


def test_what_a_collector_refuses_is_counted_and_not_sent_for_ever(recorded, kind):
    recorded.calls(1)
    with collecting(kind) as collector:
        collector.answers = [400 if kind is HttpCollector else grpc.StatusCode.INVALID_ARGUMENT]
        exporter = recorded.export(collector)

        assert exporter.failure is None
        assert (exporter.progress.spans, exporter.progress.rejected) == (0, 2)
        again = recorded.export(collector)
        assert (again.progress.spans, again.progress.rejected) == (0, 0)
    assert recorded.events("export.advanced")[-1].data["rejected"] == 2


def test_partial_success_is_honoured(recorded, collector):
    recorded.calls(3)
    collector.answers = [("partial", 3, "no add here")]
    collector.metrics_answers = [("partial", 1, "")]
    with recorded.exporting(collector) as exporting:
        exporter = exporting.make(threading.Event())
        exporter.resume()
        assert exporter.deliver_all() is None

        progress = exporter.progress
        assert (progress.spans, progress.rejected, progress.points_rejected) == (1, 3, 1)
        assert "no add here" in " ".join(exporting.said)
    assert len(collector.requests) == 1


def test_a_request_that_is_too_large_is_sent_in_halves(recorded, http):
    recorded.calls(3)
    http.answers = [413, "yes", 413]

    exporter = recorded.export(http)

    assert (exporter.progress.spans, exporter.progress.rejected) == (4, 0)
    assert len(http.requests) == 3
    assert len(unique(http)) == 4


@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_a_collector_that_takes_nothing_from_us_loses_nothing(recorded, http, status):
    recorded.calls(1)
    http.answers = [status]

    exporter = recorded.export(http)

    assert exporter.failure.kind in ("denied", "absent")
    assert str(status) in exporter.failure.words
    assert recorded.export(http).progress.spans == 2


def test_a_web_page_is_no_collector(recorded, http):
    recorded.calls(1)
    http.answers = [[200, {"Content-Type": "text/html; charset=utf-8"}]]

    exporter = recorded.export(http)

    assert exporter.failure.kind == "denied"
    assert exporter.progress.spans == 0


def test_a_collector_that_knows_no_metrics_gets_the_spans(recorded, kind):
    recorded.calls(1)
    with collecting(kind) as collector:
        collector.metrics_answers = [404 if kind is HttpCollector else grpc.StatusCode.UNIMPLEMENTED] * 5
        exporter = recorded.export(collector)

        assert exporter.failure is None
        assert exporter.progress.metrics_absent
        assert len(unique(collector)) == 2


def test_spans_that_were_taken_are_not_sent_again_when_the_metrics_fail(recorded, http):
    recorded.calls(1)
    http.metrics_answers = [503]
    with recorded.exporting(http) as exporting:
        exporter = exporting.make(threading.Event())
        exporter.resume()

        assert exporter.deliver_all().kind == "busy"
        assert recorded.events("export.advanced") == []
        assert exporter.deliver_all() is None
        exporter.save()

    assert len(unique(http)) == 2
    assert http.total("custody.calls") == 1


def test_an_exporter_that_dies_before_its_cursor_is_recorded_sends_the_same_again(recorded, collector):
    recorded.calls(2)
    with recorded.exporting(collector, pace=Pace(save_seconds=60)) as exporting:
        dying = exporting.make(threading.Event())
        dying.resume()
        dying.deliver_all()  # and no save
    first = {span.span_id: span.SerializeToString(deterministic=True) for span in collector.spans}
    collector.requests.clear()

    recorded.export(collector)

    assert {s.span_id: s.SerializeToString(deterministic=True) for s in collector.spans} == first


def test_many_calls_go_in_batches_that_are_bounded(recorded, http, monkeypatch):
    from custody.bridges.otel import exporter

    monkeypatch.setattr(exporter, "BATCH_SPANS_MAX", 5)
    recorded.calls(12)

    done = recorded.export(http)

    assert done.progress.spans == 13
    assert [len(request.resource_spans[0].scope_spans[0].spans) for request in http.requests] == [5, 5, 3]
    assert len(unique(http)) == 13
    assert http.total("custody.calls") == 12


def test_batches_are_bounded_in_bytes_too(recorded, http, monkeypatch):
    from custody.bridges.otel import exporter

    monkeypatch.setattr(exporter, "BATCH_BYTES_MAX", 1)
    recorded.calls(3)

    recorded.export(http)

    assert [len(request.resource_spans[0].scope_spans[0].spans) for request in http.requests] == [1] * 4
    assert len(unique(http)) == 4


def test_two_exporters_of_one_store_to_one_place_take_turns(recorded, http, monkeypatch):
    from custody.bridges.otel import background

    monkeypatch.setattr(background, "LOCK_RETRY_SECONDS", 0.01)
    recorded.calls(2)
    with recorded.exporting(http) as first, recorded.exporting(http) as second:
        holder = first.background()
        http.wait_for(lambda: len(http.spans) == 3)
        waiter = second.background()
        recorded.calls(1)
        http.wait_for(lambda: len(http.spans) == 5)
        assert waiter.exporter.progress.spans == 0
        finish(holder)
        recorded.calls(1)
        http.wait_for(lambda: len(http.spans) == 7)
        finish(waiter)

    assert (holder.exporter.progress.spans, waiter.exporter.progress.spans) == (5, 2)
    assert len(unique(http)) == 7


def test_two_places_each_get_everything(recorded, http):
    recorded.calls(2)
    with collecting(GrpcCollector) as other:
        recorded.export(http)
        recorded.export(other)
        recorded.calls(1)
        recorded.export(other)

        assert (len(unique(http)), len(unique(other))) == (3, 5)
    assert recorded.export(http).progress.spans == 2


def test_an_exporter_with_nothing_to_say_writes_nothing(recorded, http):
    recorded.calls(1)
    recorded.export(http)
    with recorded.exporting(http) as exporting:
        export = exporting.background()
        recorded.run()  # one more span, so that we know it has looked
        http.wait_for(lambda: len(http.spans) == 3)
        finish(export)
    for _ in range(3):
        recorded.export(http)

    assert len(recorded.events("export.advanced")) == 2


def test_headers_are_sent_and_nowhere_kept(recorded, kind, monkeypatch):
    from custody.bridges.otel.destination import OtelSection, destination_of

    recorded.calls(1)
    with collecting(kind) as collector, recorded.exporting(collector) as exporting:
        exporting.destination = destination_of(
            OtelSection(headers={"Authorization": "Bearer geheim-1234"}), {},
            endpoint=collector.endpoint, protocol=collector.protocol,
        )  # fmt: skip
        exporter = exporting.make(threading.Event())
        exporter.resume()
        collector.answers = [("partial", 1, "you said Bearer geheim-1234")]
        exporter.deliver_all()
        exporter.save()

        sent = {name.lower(): value for name, value in collector.headers[0].items()}
        assert sent["authorization"] == "Bearer geheim-1234"
        assert "geheim" not in " ".join(exporting.said)
        assert "geheim" not in repr(exporting.destination)
    assert "geheim" not in str([event.data for event in recorded.events("export.advanced")])


def test_a_record_that_cannot_be_read_keeps_no_other_from_being_exported(recorded, http):
    async def orphan(runtime, run):
        from custody.records import CallFinished, now_us

        recorder = runtime.ledger.recorder
        ended = recorder.draft(CallFinished, {}, call_id=b"no-start", at_us=now_us(), outcome="succeeded")
        recorder.append(ended)  # its start was lost with the power
        await run.call(add, {"left": 1, "right": 1})

    recorded.run(orphan)
    exporter = recorded.export(http)

    assert exporter.progress.unreadable == 1
    assert len(unique(http)) == 2


# -- under TLS ----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """A certificate for 127.0.0.1 that nobody trusts yet, with its key."""
    folder = tmp_path_factory.mktemp("certificate")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "collector")])
    here = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([here]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "both.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + secret)
    return path


def test_under_tls_a_collector_is_believed_only_with_a_certificate_that_is_trusted(
    recorded, certificate, monkeypatch
):
    recorded.calls(1)
    with collecting(HttpCollector, up=False) as collector:
        collector.use_tls(certificate)
        collector.up()
        refused = recorded.export(collector)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))

        assert refused.failure.kind == "unreachable"
        assert "certificate" in refused.failure.words
        assert recorded.export(collector).progress.spans == 2


def test_under_tls_a_stop_does_not_wait_either(recorded, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    recorded.calls(1)
    with collecting(HttpCollector, up=False) as collector:
        collector.use_tls(certificate)
        collector.up()
        collector.answers = ["silent"] * 10
        with recorded.exporting(collector, pace=patient(SILENT_SECONDS)) as exporting:
            export = exporting.background()
            collector.wait_for(lambda: collector.asked == 1)
            began = time.monotonic()
            export.stop()

            assert time.monotonic() - began < STOP_SECONDS_MAX
            assert export.wait(BUSY_SECONDS), "the request was not cut off"


# -- beside a program ---------------------------------------------------------------------------------


def setting(tmp_path, **section):
    path = tmp_path / "config" / "custody" / "custody.toml"
    lines = [
        f"{name} = {str(value).lower() if isinstance(value, bool) else repr(value)}"
        for name, value in section.items()
    ]
    path.write_text(path.read_text() + "[otel]\n" + "\n".join(lines) + "\n")


@pytest.mark.parametrize("store", ["folder", ":memory:"])
def test_a_program_with_the_setting_exports_what_it_records(tmp_path, kind, store, monkeypatch):
    monkeypatch.setattr(BackgroundExport.stop, "__defaults__", (BUSY_SECONDS,))  # it sends at its end
    with collecting(kind) as collector:
        setting(tmp_path, endpoint=collector.endpoint, protocol=collector.protocol, service_name="shop")
        folder = store if store == ":memory:" else tmp_path / store
        with custody.open(folder) as runtime, runtime.run("sums", agent="adder") as run:
            assert run.call(add, {"left": 1, "right": 2}).result == 3

        assert sorted(span.name for span in collector.spans) == ["execute_tool add", "invoke_agent adder"]
        (whole,) = {request.resource_spans[0].resource.SerializeToString() for request in collector.requests}
        assert b"shop" in whole
        assert attributes(collector.by_name("execute_tool add").attributes)["custody.outcome"] == "succeeded"


@pytest.mark.long
def test_a_program_ends_in_time_beside_a_collector_that_never_answers(tmp_path, kind, monkeypatch):
    monkeypatch.setitem(Exporter.__init__.__kwdefaults__, "pace", patient(SILENT_SECONDS))
    with collecting(kind) as collector:
        collector.answers = ["silent"] * 10
        setting(tmp_path, endpoint=collector.endpoint, protocol=collector.protocol)
        with custody.open(tmp_path / "store") as runtime:
            slowest = max(timed(lambda: runtime.call(add, {"left": 1, "right": 2})) for _ in range(20))
            collector.wait_for(lambda: collector.asked)
            began = time.monotonic()

        assert time.monotonic() - began < STOP_SECONDS_MAX
        assert slowest < BUSY_SECONDS, "a call waited for the collector"


def timed(act) -> float:
    began = time.monotonic()
    act()
    return time.monotonic() - began


def test_without_an_endpoint_in_the_settings_a_program_exports_nothing(tmp_path, http, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", http.endpoint)
    with custody.open(tmp_path / "store") as runtime:
        runtime.call(add, {"left": 1, "right": 2})

    assert http.asked == 0
