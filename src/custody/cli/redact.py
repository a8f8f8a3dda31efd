"""`custody redact`: what scanners find in a text, and what of it is no secret.

Owns what a person is told of finds, which never is the secret itself, and the recording of what a person
allows. How secrets are found is `redaction`'s.
"""

import os
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
from msgspec import Struct

from custody.cli.invocation import message, printable
from custody.cli.options import json_option, load, store_option
from custody.errors import InvalidInput, NotFound, StoreReadOnly, UsageError

if TYPE_CHECKING:
    from custody.journal import Disk
    from custody.redaction import Redactor, ScanRule
    from custody.redaction.allowed import Allowed
    from custody.settings import Settings
    from custody.stores import View

FILE_BYTES_MAX = 256 * 1024 * 1024  # held in memory; of a larger one let a part be looked at
SCAN_MS_MAX = 120_000  # a person waits for it: what takes longer was made to
REASON_CHARACTERS_MAX = 500  # kept for ever, in a leaf
SCHEME_BYTES = 32  # looked at before `://`; no scheme is longer
LOCK_FILE = "keys/allowed.lock"
LOCK_WAIT_SECONDS = 10.0  # another process holds it for milliseconds
LOCK_LOOK_SECONDS = 0.02


@click.group("redact", epilog="Example:  custody redact test build.log --json")
def redact_command() -> None:
    """See what counts as a secret, and say what does not."""


# -- test -------------------------------------------------------------------------------------------------


class Found(Struct, frozen=True, kw_only=True):
    """One secret in a text; not the secret."""

    line: int
    column: int
    """Of its first character, counted from 1."""
    rule: str
    kind: str
    fingerprint: str | None
    """None without a store, whose key it is made with."""
    encoding: str | None
    """`base64` or `hex` where the text holds it so."""


@redact_command.command("test", epilog="Example:  git diff | custody redact test -")
@click.argument("file")
@store_option
@json_option
def test_command(file: str, store: str | None, as_json: bool) -> int:
    """Say which secrets a file holds (`-`: standard input). Exits with 1 if there are any."""
    from custody.redaction import OverBudget

    settings = load(store)
    name, data = _read(file)
    redactor, has_key = _redactor(settings)
    try:
        found = list(_finds(redactor, data, has_key=has_key))
    except OverBudget:
        raise InvalidInput(
            f"{name} takes more than {SCAN_MS_MAX // 1000} s to search, so nothing is said of it.",
            hint="Let a part of it be looked at.",
        ) from None
    if as_json:
        from custody.cli.document import print_document

        print_document({"file": name, "bytes": len(data), "hits": found})
    else:
        _print_finds(name, found)
        if not has_key:
            message("there is no store here yet, so its fingerprints are not known.")
    return 1 if found else 0


def _read(file: str) -> tuple[str, bytes]:
    """What the input is called in a message, and all of it."""
    name = "standard input" if file == "-" else file
    try:
        if file == "-":
            data = sys.stdin.buffer.read(FILE_BYTES_MAX + 1)
        else:
            with open(file, "rb") as opened:
                data = opened.read(FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{name} cannot be read: {getattr(error, 'strerror', error)}.") from None
    if len(data) > FILE_BYTES_MAX:
        raise InvalidInput(f"{name} has more than {FILE_BYTES_MAX} bytes.", hint="Give it in parts.")
    return name, _in_utf8(data)


def _in_utf8(data: bytes) -> bytes:
    """What is UTF-16, as some systems write logs, as the record would have it."""
    from custody.tools.text import HEAD_BYTES, decoded, encoding_of

    encoding = encoding_of(data[:HEAD_BYTES])
    if encoding is None or not encoding.name.startswith("utf-16"):
        return data
    text, _ = decoded(data[encoding.mark_bytes :], encoding)
    return text.encode("utf-8", "surrogatepass")


def _redactor(settings: "Settings") -> tuple["Redactor", bool]:
    """One that finds what the store would replace, and whether it has the store's key. Makes nothing."""
    from custody.redaction import Redactor, secrets_of
    from custody.stores import REDACTION_KEY, REDACTION_KEY_BYTES, allowed_in, open_disk

    key, allowed = None, frozenset[str]()
    if os.path.isdir(settings.store):
        disk = open_disk(settings.store, create=False)
        try:
            key = disk.read_all(REDACTION_KEY)
        except PermissionError as error:
            raise UsageError(f"The store {settings.store} cannot be read: {error.strerror}.") from None
        allowed = allowed_in(disk)
    redactor = Redactor(
        key or bytes(REDACTION_KEY_BYTES),
        secrets_of(os.environ),
        rules=_own_rules(settings),
        allowed=allowed,
        bytes_max=FILE_BYTES_MAX,
        ms_max=SCAN_MS_MAX,
    )
    return redactor, key is not None


def _finds(redactor: "Redactor", data: bytes, *, has_key: bool) -> Iterator[Found]:
    """In the order of the text. Raises OverBudget."""
    hits = [
        (hit.start, hit.rule, hit.kind, hit.fingerprint, hit.encoding, hit.end) for hit in redactor.scan(data)
    ]
    taken = [(hit[0], hit[5]) for hit in hits]
    for start, fingerprint in _url_credentials(redactor, data):
        if not any(begin <= start < end for begin, end in taken):
            hits.append((start, "url_credentials", "credentials in a URL", fingerprint, None, start))
    line, line_begin, counted = 1, 0, 0
    for start, rule, kind, fingerprint, encoding, _ in sorted(hits):
        feeds = data.count(b"\n", counted, start)
        if feeds:
            line, line_begin = line + feeds, data.rfind(b"\n", counted, start) + 1
        counted = start
        yield Found(
            line=line,
            column=len(data[line_begin:start].decode("utf-8", "replace")) + 1,
            rule=rule,
            kind=kind,
            fingerprint=fingerprint if has_key else None,
            encoding=encoding,
        )


def _url_credentials(redactor: "Redactor", data: bytes) -> Iterator[tuple[int, str]]:
    """Where the credentials of each URL stand, and their fingerprint."""
    from custody.redaction.allowed import TOKEN
    from custody.redaction.urls import RULE, holds_userinfo

    place = data.find(b"://")
    while place >= 0:
        after = data.find(b"://", place + 3)
        begin = max(0, place - SCHEME_BYTES)
        begin = max(begin, data.rfind(b"\n", begin, place) + 1)
        end = len(data) if after < 0 else after
        feed = data.find(b"\n", place, end)
        url = data[begin : end if feed < 0 else feed]
        if holds_userinfo(url):
            clean, _ = redactor.text(url.decode("utf-8", "replace"), "")
            for token in TOKEN.finditer(clean):
                if token[1] == RULE:
                    yield place + 3, token[2]
        place = after


def _print_finds(name: str, found: list[Found]) -> None:
    shown = printable(name, keep="")
    for one in found:
        encoded = f", as {one.encoding}" if one.encoding else ""
        fingerprint = f" {one.fingerprint}" if one.fingerprint else ""
        print(f"{shown}:{one.line}:{one.column}: {one.rule}{fingerprint} ({printable(one.kind)}{encoded})")
    if not found:
        print(f"{shown}: no secrets found")
        return
    count = "1 secret" if len(found) == 1 else f"{len(found):,} secrets"
    message(f"{count} in {name}. A record would hold [redacted:RULE:FINGERPRINT] in their place.")


# -- allow and disallow -------------------------------------------------------------------------------------


@redact_command.command(
    "allow", epilog="Example:  custody redact allow 5f2a90c1 --reason 'a key of the docs'"
)
@click.argument("fingerprint")
@click.option("--reason", required=True, metavar="TEXT", help="Why it is no secret; kept for ever.")
@store_option
@json_option
def allow_command(fingerprint: str, reason: str, store: str | None, as_json: bool) -> int:
    """Keep what has this fingerprint as it is from here on: scanners erred.

    FINGERPRINT is the last part of a token, or all of it: [redacted:github_pat:5f2a90c1]. Known values,
    values under sensitive names and credentials in URLs are replaced all the same.
    """
    from custody.redaction.allowed import ALLOWED

    return _change(ALLOWED, fingerprint, reason, store, as_json=as_json)


@redact_command.command("disallow", epilog="Example:  custody redact disallow 5f2a90c1")
@click.argument("fingerprint")
@click.option("--reason", default="", metavar="TEXT", help="Why; kept for ever.")
@store_option
@json_option
def disallow_command(fingerprint: str, reason: str, store: str | None, as_json: bool) -> int:
    """Take back what was allowed."""
    from custody.redaction.allowed import DISALLOWED

    return _change(DISALLOWED, fingerprint, reason, store, as_json=as_json)


def _change(name: str, said: str, reason: str, store: str | None, *, as_json: bool) -> int:
    from custody.redaction.allowed import ALLOWED

    rule, fingerprint = _fingerprint(said)
    reason = reason.strip()
    if name == ALLOWED and not reason:
        raise InvalidInput("--reason is empty.", hint="Whoever reads the record wants to know why.")
    if len(reason) > REASON_CHARACTERS_MAX:
        raise InvalidInput(f"--reason has {len(reason)} characters; {REASON_CHARACTERS_MAX} is the most.")
    settings = load(store)
    with _changing(settings) as (disk, view, record):
        before = _from_record(view)
        if name != ALLOWED and fingerprint not in before:
            raise NotFound(f"{fingerprint} is not allowed.", hint="custody redact list shows what is.")
        known = before.get(fingerprint)
        record(name, {"fingerprint": fingerprint, "rule": rule or (known and known.rule), "reason": reason})
        after = _write_view(disk, view)
    if as_json:
        from custody.cli.document import print_document

        print_document({"fingerprint": fingerprint, "allowed": fingerprint in after})
    elif name == ALLOWED:
        print(f"{fingerprint} is kept as it is from here on, in everything that opens the store from now on.")
        message("a fingerprint has 32 bits: one other text in four billion has the same.")
    else:
        print(f"{fingerprint} is replaced again from here on.")
    return 0


def _fingerprint(said: str) -> tuple[str | None, str]:
    """Rule, where it was said, and fingerprint. Raises InvalidInput."""
    from custody.redaction.allowed import FINGERPRINT, NEVER, TOKEN

    token = TOKEN.fullmatch(said)
    if token is not None and token[1] in NEVER:
        raise InvalidInput(
            f"What {token[1]} finds is always replaced.",
            hint="Only what scanners find by its form can be allowed; custody redact rules lists them.",
        )
    if token is None and not FINGERPRINT.fullmatch(said):
        raise InvalidInput(
            "That is no fingerprint.", hint="It has 8 digits of 0-9 and a-f; custody redact test shows them."
        )
    return (None, said) if token is None else (token[1], token[2])


Record = Callable[[str, dict[str, Any]], None]


@contextmanager
def _changing(settings: "Settings") -> Generator[tuple["Disk", "View", Record]]:
    """The store, with the right to change what is allowed, and what puts an event on the disk."""
    from custody.cli.view import opened
    from custody.stores import make_recorder, open_disk

    with opened(settings) as view:
        if view.index.damage is not None:
            raise view.index.damage  # what stands behind the damage may have taken something back
        disk = open_disk(settings.store, create=False)
        try:
            disk.make_folder("keys")
            lock = _locked(disk)
        except OSError as error:
            raise StoreReadOnly(f"The store {settings.store} cannot be written: {error.strerror}.") from None

        def record(name: str, data: dict[str, Any]) -> None:
            recorder = make_recorder(disk, view.journal, os.environ, settings)
            recorder.append(recorder.draft_event(name, data, leaf_data=True)).wait_durable()

        try:
            yield disk, view, record
        finally:
            lock.release()


def _locked(disk: "Disk") -> Any:
    import time

    deadline = time.monotonic() + LOCK_WAIT_SECONDS
    while (lock := disk.lock(LOCK_FILE)) is None:
        if time.monotonic() > deadline:
            raise UsageError("Another process has been changing what is allowed all this time.")
        time.sleep(LOCK_LOOK_SECONDS)
    return lock


def _from_record(view: "View") -> dict[str, "Allowed"]:
    """What is allowed, as the record has it."""
    from custody.index import EventFilter
    from custody.redaction.allowed import ALLOWED, DISALLOWED, folded

    events: list[Any] = []
    for name in (ALLOWED, DISALLOWED):
        cursor: str | None = None
        while True:
            page = view.index.events(EventFilter(name=name, order="oldest"), cursor=cursor)
            events += page.items
            cursor = page.next
            if cursor is None:
                break
    events.sort(key=lambda event: (event.at, event.shard, event.sequence))
    return folded((event.name, event.at, event.data) for event in events)


def _write_view(disk: "Disk", view: "View") -> dict[str, "Allowed"]:
    """Make the file that openers read say what the record does. Raises StoreReadOnly."""
    from custody.redaction.allowed import encode
    from custody.stores import ALLOWED_FILE

    allowed = _from_record(view)
    data = encode(allowed.values())
    try:
        if disk.read_all(ALLOWED_FILE) != data:
            disk.replace(ALLOWED_FILE, data)
    except OSError as error:
        raise StoreReadOnly(
            f"It is on the record, and {ALLOWED_FILE} cannot be written: {error.strerror}.",
            hint="custody redact list writes it anew.",
        ) from None
    return allowed


# -- lists --------------------------------------------------------------------------------------------------


@redact_command.command("list", epilog="Example:  custody redact list --json")
@store_option
@json_option
def list_command(store: str | None, as_json: bool) -> int:
    """List what is allowed, as the record has it."""
    with _changing(load(store)) as (disk, view, _):
        allowed = _write_view(disk, view)
    if as_json:
        from custody.cli.document import print_list

        print_list(allowed.values(), None)
        return 0
    from custody.cli.render import Column, table

    if not allowed:
        message("nothing is allowed: every find of a scanner is replaced.")
        return 0
    table(
        ["Fingerprint", "Rule", "Since", Column("Reason", flexible=True)],
        [(one.fingerprint, one.rule, one.at, printable(one.reason, keep="")) for one in allowed.values()],
    )
    return 0


@redact_command.command("rules", epilog="Example:  custody redact rules --json")
@store_option
@json_option
def rules_command(store: str | None, as_json: bool) -> int:
    """List the kinds of secrets that scanners know by their form."""
    from custody.redaction.rules import RULES

    own = _own_rules(load(store))
    rows = [(rule, "built in") for rule in RULES] + [(rule, "settings") for rule in own]
    if as_json:
        from custody.cli.document import print_list

        print_list(({"id": rule.id, "kind": rule.kind, "source": source} for rule, source in rows), None)
        return 0
    from custody.cli.render import Column, table

    table(
        ["Rule", Column("What it is", flexible=True), "From"],
        [(rule.id, printable(rule.kind, keep=""), source) for rule, source in rows],
    )
    return 0


def _own_rules(settings: "Settings") -> tuple["ScanRule", ...]:
    """The rules of the files that the settings name. Raises InvalidSetting."""
    from custody.stores import scan_rules

    return scan_rules(settings)
