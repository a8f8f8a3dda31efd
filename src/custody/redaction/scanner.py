"""Where secrets stand in one text: values the runtime was told of, and what has the format of a secret.

Owns the search of one text, its order (keywords, then patterns near them, then what encoded runs decode to),
the settling of overlaps, and the budget. Knows nothing of the value a text stands in, of names or of the
record. Used by the redactor, which replaces what is found.

Text is searched as bytes. One pass finds known values in every spelling and the rules' keywords, plain and
encoded; without one the text is done. Around a keyword the rule's RE2 pattern decides, then its check. The
stretch around an encoded piece is decoded and searched like a text of its own. Finds that overlap are one,
that of the longest.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from custody.redaction.encodings import (
    BASE64,
    HEXADECIMAL,
    URL,
    Decoded,
    Unquoted,
    decoded,
    encoded,
    in_url,
    spellings,
    unquoted,
)
from custody.redaction.known import Fingerprints
from custody.redaction.needles import (
    BASE64_GROUP,
    HEXADECIMAL_GROUP,
    NEEDLE_BYTES_MAX,
    NEEDLE_BYTES_MIN,
    Filter,
    Needle,
    Stretch,
)
from custody.redaction.patterns import Pattern, Spans, compiled, least_bytes
from custody.redaction.rule import FIRST_GROUP, ScanRule
from custody.redaction.urls import RULE as URL_RULE
from custody.redaction.urls import credentials_in

KNOWN_VALUE = "known_value"

TOKEN = re.compile(rb"\[redacted:([a-z0-9_]{1,64}):[0-9a-f]{8}\]")
"""What stands for a secret."""

OUTSIDE_TOKENS_MIN = 16
"""Characters that a find has beside tokens already in it; with fewer it is what a token left behind."""

URL_CREDENTIALS = ScanRule(
    id=URL_RULE,
    kind="credentials in a URL",
    keywords=(
        "https://", "http://", "redis://", "rediss://", "postgres://", "postgresql://", "mysql://", "mariadb://",
        "mongodb://", "mongodb+srv://", "amqp://", "amqps://", "ftp://", "sftp://", "smtp://", "ldap://", "git://",
    ),
    pattern="",
    before=16,
    after=320,
    run=1024,
)  # fmt: skip
"""Text is searched for these by `urls`, without a pattern; here they are found only where encoded. The
run, longer than the stretch, lets no plain one pass."""

CHECKS_UNSEEN = 32
"""Of the budget's time, between two looks at the clock: each look costs as much as a small search."""

APART_BYTES = 1024
"""Stretches of one rule that are nearer to each other are searched as one: to begin anew costs more."""

FOLLOWED_BYTES = 4096
FOLLOWED_BYTES_MAX = 1024 * 1024
"""A match that reaches the end of its stretch is followed in steps that begin with the one, as far as the
other."""

RETRIES_MAX = 16
"""Matches in one stretch that a check refused, behind whose first character the search goes on. After that it
goes on behind each, or a text made for it would take quadratic time."""

_CONTINUED_BYTES_MAX = 3
"""Of one character in UTF-8, behind its first."""

_ENCODINGS = {BASE64_GROUP: BASE64, HEXADECIMAL_GROUP: HEXADECIMAL}


class OverBudget(Exception):
    """The text would take more than what may be spent on one record."""


class Budget:
    """What may be spent on the texts of one record. The time is the thread's own: a machine that is busy
    elsewhere changes nothing of what is kept."""

    def __init__(self, bytes_max: int, ms_max: float) -> None:
        self._bytes_left = bytes_max
        self._checks = 0
        self._ends_ns = time.thread_time_ns() + ms_max * 1e6

    def spend(self, count: int) -> None:
        """Raises OverBudget, and then has spent nothing."""
        if count > self._bytes_left:
            raise OverBudget
        self._bytes_left -= count

    def check(self) -> None:
        """Raises OverBudget when the time is over. Cheap: most times it does not look at the clock."""
        self._checks += 1
        if self._checks % CHECKS_UNSEEN == 1 and time.thread_time_ns() > self._ends_ns:
            raise OverBudget


class Hit(NamedTuple):
    """A secret in a text."""

    start: int
    end: int
    rule: str
    kind: str
    """What it is, in words."""
    fingerprint: str
    encoding: str | None
    """`base64`, `hex` or `url` where the text holds it so."""

    @property
    def token(self) -> str:
        return f"[redacted:{self.rule}:{self.fingerprint}]"


class _Find(NamedTuple):
    start: int
    end: int
    rule: ScanRule | None
    """None: a known value."""
    secret: bytes
    encoding: str | None = None


@lru_cache(256)
def _check(name: str) -> Callable[[bytes], bool]:
    from custody.redaction import checks

    return getattr(checks, name)


class Scanner:
    """Finds secrets for one store. Safe to share between threads."""

    def __init__(
        self,
        fingerprints: Fingerprints,
        *,
        known: Iterable[str] = (),
        rules: Sequence[ScanRule] = (),
        allowed: frozenset[str] = frozenset(),
    ) -> None:
        self._fingerprints = fingerprints
        self._rules = (*rules, URL_CREDENTIALS)
        self._known = tuple(dict.fromkeys(encoded(value.strip()) for value in known if value.strip()))
        self._allowed = allowed
        self._order = {rule.id: place for place, rule in enumerate(self._rules)}
        self._own_ids = frozenset(rule.id.encode() for rule in self._rules)
        self._everywhere = tuple(rule for rule in self._rules if not rule.keywords)
        self._first_known = len(_ENCODINGS) + len(self._rules)
        known_needles = tuple(_known_needles(self._known, self._first_known))
        if known_needles:
            self._filter = Filter((*_needles_of(self._rules), *known_needles))
        else:
            self._filter = _filter_of(self._rules)
        self.tables = self._filter.tables

    @property
    def always(self) -> bool:
        """Whether there are rules without keywords, for which every text must be searched."""
        return bool(self._everywhere)

    def prepare(self) -> None:
        """See `Filter.prepare`."""
        self._filter.prepare()

    def level(self, data: bytes) -> int:
        """See `Filter.level`: whether there may be something in these bytes."""
        return self._filter.level(data)

    def find(self, data: bytes, budget: Budget) -> list[Hit]:
        """All secrets, by start, none overlapping another. Raises OverBudget."""
        finds = [*self._plain(data, budget, None)]
        if not finds:
            return []
        tokens = [found.span() for found in TOKEN.finditer(data) if self._is_own(found[1])]
        finds = [
            find
            for find in finds
            if not (tokens and _left_behind(find, tokens)) and not (self._allowed and self._is_allowed(find))
        ]
        finds.sort(
            key=lambda find: (find.start, -find.end, -1 if find.rule is None else self._order[find.rule.id])
        )
        fingerprints: dict[bytes, str] = {}
        return [self._hit(find, fingerprints) for find in _settled(finds)]

    def replace(self, data: bytes, budget: Budget) -> tuple[bytes, list[Hit]]:
        """The text with tokens for its secrets, and what these were. Raises OverBudget."""
        budget.spend(len(data))
        hits = self.find(data, budget)
        if not hits:
            return data, hits
        parts: list[bytes] = []
        kept_to = 0
        for hit in hits:
            start, end = _whole_characters(data, hit.start, hit.end)
            parts += (data[kept_to:start], hit.token.encode())
            kept_to = end
        parts.append(data[kept_to:])
        return b"".join(parts), hits

    def replace_lines(self, lines: list[str], budget: Budget) -> tuple[list[str], list[Hit]]:
        """Texts that are the lines of one, in which a secret of several lines may stand. Raises OverBudget.
        What stands in one line alone is left to the search of that line."""
        joined = [encoded(line) for line in lines]
        data = b"\n".join(joined)
        if not holds_lines(data):
            return lines, []
        budget.spend(len(data))
        hits = [hit for hit in self.find(data, budget) if data.count(b"\n", hit.start, hit.end)]
        kept, start = list(lines), 0
        for index, line in enumerate(joined):
            end = start + len(line)
            for hit in reversed(hits):
                if hit.start < end and hit.end > start:
                    first, last = max(hit.start, start) - start, min(hit.end, end) - start
                    line = line[:first] + hit.token.encode() + line[last:]
                    kept[index] = line.decode("utf-8", "surrogateescape")
            start = end + 1
        return kept, hits

    def replace_text(self, text: str, budget: Budget) -> tuple[str, list[Hit]]:
        errors = "surrogateescape"
        try:
            data = text.encode("utf-8", errors)
        except UnicodeEncodeError:  # surrogates that no bytes were decoded to
            errors = "surrogatepass"
            data = text.encode("utf-8", errors)
        data, hits = self.replace(data, budget)
        return (data.decode("utf-8", errors), hits) if hits else (text, hits)

    def _is_allowed(self, find: _Find) -> bool:
        if find.rule is None or find.rule is URL_CREDENTIALS:
            return False
        return self._fingerprints.of(find.secret) in self._allowed

    def _is_own(self, rule: bytes) -> bool:
        return rule in self._own_ids or rule in _RULES_OF_OTHERS

    def _hit(self, find: _Find, fingerprints: dict[bytes, str]) -> Hit:
        rule, kind = (KNOWN_VALUE, "known value") if find.rule is None else (find.rule.id, find.rule.kind)
        fingerprint = fingerprints.get(find.secret)
        if fingerprint is None:
            fingerprint = fingerprints[find.secret] = self._fingerprints.of(find.secret)
        return Hit(find.start, find.end, rule, kind, fingerprint, find.encoding)

    # -- one text -------------------------------------------------------------------------------------

    def _plain(self, data: bytes, budget: Budget, encoding: str | None) -> Iterator[_Find]:
        """What is found in the text as it stands, and unless it was decoded itself in what it encodes."""
        stretches = self._filter.find(data)
        if stretches is None:
            raise OverBudget
        quoted: list[tuple[int, int]] = []
        for group, start, end in self._coalesced(stretches):
            if group >= self._first_known:
                yield _Find(start, end, None, self._known[group - self._first_known], encoding)
                continue
            budget.check()
            if group not in _ENCODINGS:
                rule = self._rules[group - len(_ENCODINGS)]
                if rule is not URL_CREDENTIALS:
                    yield from self._matches(rule, data, start, end, budget, encoding)
                if encoding is None and data.find(b"%", start, end) >= 0:
                    quoted.append((start, end))
            elif encoding is None:
                runs = decoded(_ENCODINGS[group], data, start, end, self._filter.level)
                yield from self._encoded(_ENCODINGS[group], runs, budget)
        for start, end in _joined(quoted):
            yield from self._encoded(URL, unquoted(data, start, end), budget)
        for rule in self._everywhere:
            budget.check()
            yield from self._matches(rule, data, 0, len(data), budget, encoding)

    def _coalesced(self, stretches: list[Stretch]) -> list[Stretch]:
        """Those of one rule that are near each other are one."""
        if len(stretches) < 3:
            return stretches
        last: dict[int, int] = {}
        found: list[Stretch] = []
        for stretch in stretches:
            place = last.get(stretch.group)
            if place is not None and stretch.start - found[place].end < APART_BYTES:
                found[place] = found[place]._replace(end=max(found[place].end, stretch.end))
                continue
            if stretch.group < self._first_known:
                last[stretch.group] = len(found)
            found.append(stretch)
        return found

    def _encoded(
        self, encoding: str, runs: Iterator[Decoded] | Iterator[Unquoted], budget: Budget
    ) -> Iterator[_Find]:
        for run in runs:
            budget.check()
            for start, end, secret in credentials_in(run.data):
                yield _Find(*run.place(start, end), URL_CREDENTIALS, secret, encoding)
            if not self._filter.level(run.data):
                continue
            for find in self._plain(run.data, budget, encoding):
                first, last = run.place(find.start, find.end)
                yield _Find(first, last, find.rule, find.secret, encoding)

    def _matches(
        self, rule: ScanRule, data: bytes, start: int, end: int, budget: Budget, encoding: str | None
    ) -> Iterator[_Find]:
        if end - start < least_bytes(rule.pattern):
            return
        pattern = compiled(rule.pattern)
        judged: dict[bytes, bool] = {}
        retries = 0
        while start < end and (spans := pattern.search(data, start, end)) is not None:
            if spans[0][1] == end < len(data):
                spans = _followed(pattern, spans, data)
            first, last = _secret_span(rule, spans)
            begin, behind = spans[0]
            secret = data[first:last]
            passes = judged.get(secret)
            if passes is None:
                passes = judged[secret] = bool(secret) and _passes(rule, secret)
            if passes and not (rule.exemptions and _is_exempt(rule, data, spans[0], secret)):
                yield _Find(first, last, rule, secret, encoding)
                start = max(behind, begin + 1)
                continue
            budget.check()
            retries += 1
            start = begin + 1 if retries <= RETRIES_MAX else max(behind, begin + 1)


_LINES = (b"-----BEGIN ", b"PuTTY-User-Key-File")


def holds_lines(data: bytes) -> bool:
    """Whether a secret of several lines may begin here: a private key."""
    return any(begin in data for begin in _LINES)


_RULES_OF_OTHERS = frozenset({b"known_value", b"sensitive_key", b"unscanned"})


def _secret_span(rule: ScanRule, spans: Spans) -> tuple[int, int]:
    if rule.secret != FIRST_GROUP:
        return spans[rule.secret]
    return next(((start, end) for start, end in spans[1:] if end > start >= 0), spans[0])


def _is_exempt(rule: ScanRule, data: bytes, match: tuple[int, int], secret: bytes) -> bool:
    for exemption in rule.exemptions:
        start, end = match
        if exemption.target == "line":
            start = data.rfind(b"\n", 0, start) + 1
            line_end = data.find(b"\n", end)
            end = len(data) if line_end < 0 else line_end
        target = secret if exemption.target == "secret" else data[start:end]
        small = secret.lower()
        conditions = [
            any(
                compiled(pattern).search(target, 0, len(target)) is not None for pattern in exemption.patterns
            ),
            any(word.encode() in small for word in exemption.stopwords),
        ]
        if all(conditions) if exemption.all_needed else any(conditions):
            return True
    return False


def _passes(rule: ScanRule, secret: bytes) -> bool:
    if rule.check is not None and not _check(rule.check)(secret):
        return False
    if not rule.entropy:
        return True
    from custody.redaction.checks import entropy

    return entropy(secret) > rule.entropy


def _followed(pattern: Pattern, spans: Spans, data: bytes) -> Spans:
    """The match that reaches the end of its stretch, as far as it goes."""
    start, end = spans[0]
    step = FOLLOWED_BYTES
    while spans[0][1] == end < len(data) and step <= FOLLOWED_BYTES_MAX:
        end = min(len(data), end + step)
        further = pattern.match(data, start, end)
        if further is None:
            break
        spans, step = further, step * 2
    return spans


def _left_behind(find: _Find, tokens: list[tuple[int, int]]) -> bool:
    """Whether the find is a token, or little beside one."""
    inside = 0
    for start, end in tokens:
        inside += max(0, min(end, find.end) - max(start, find.start))
    return inside > 0 and find.end - find.start - inside < OUTSIDE_TOKENS_MIN


def _joined(stretches: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Those that touch are one."""
    stretches.sort()
    while stretches:
        start, end = stretches[0]
        count = 1
        while count < len(stretches) and stretches[count][0] <= end:
            end = max(end, stretches[count][1])
            count += 1
        del stretches[:count]
        yield start, end


def _whole_characters(data: bytes, start: int, end: int) -> tuple[int, int]:
    """The stretch and what it has begun of characters of UTF-8, which a pattern over bytes may cut."""
    for _ in range(_CONTINUED_BYTES_MAX):
        if start > 0 and data[start] & 0xC0 == 0x80:
            start -= 1
        if end < len(data) and data[end] & 0xC0 == 0x80:
            end += 1
    return start, end


def _settled(finds: list[_Find]) -> Iterator[_Find]:
    """Those that overlap are one find, that of the longest, and of equals that of the first."""
    if not finds:
        return
    longest = finds[0]
    start, end = longest.start, longest.end
    for find in finds[1:]:
        if find.start >= end:
            yield longest._replace(start=start, end=end)
            longest, start, end = find, find.start, find.end
            continue
        end = max(end, find.end)
        if find.end - find.start > longest.end - longest.start:
            longest = find
    yield longest._replace(start=start, end=end)


# -- needles ----------------------------------------------------------------------------------------------


@lru_cache(8)
def _needles_of(rules: tuple[ScanRule, ...]) -> tuple[Needle, ...]:
    """The rules' keywords, and as URLs spell them. The group of each is the rule's place, behind those of the
    encodings."""
    needles: list[Needle] = []
    for place, rule in enumerate(rules, len(_ENCODINGS)):
        before, after, fold = rule.before, rule.after, not rule.keywords_exact
        for keyword in rule.keywords:
            data = keyword.encode()
            needles.append(Needle(data, fold, place, before, after, rule.run, encoded=True))
            if not data.isalnum():
                quoted = in_url(data)
                if quoted != data:
                    needles.append(Needle(quoted, True, place, before, after))
                if b"/" in data:
                    needles.append(Needle(quoted.replace(b"%2F", b"/"), True, place, before, after))
    return tuple(needles)


@lru_cache(8)
def _filter_of(rules: tuple[ScanRule, ...]) -> Filter:
    """The same for every store that knows no values of its own: its tables take milliseconds to make."""
    return Filter(_needles_of(rules))


def _known_needles(known: Sequence[bytes], first_group: int) -> Iterator[Needle]:
    for place, data in enumerate(known, first_group):
        for spelling in spellings(data.decode("utf-8", "surrogateescape")):
            if len(spelling) >= NEEDLE_BYTES_MIN:
                yield Needle(spelling[:NEEDLE_BYTES_MAX], False, place, encoded=spelling == data)


def line_and_column(data: bytes, at: int) -> tuple[int, int]:
    """Where a byte stands in the text, both from 1; the column in characters."""
    begin = data.rfind(b"\n", 0, at) + 1
    return data.count(b"\n", 0, at) + 1, len(data[begin:at].decode("utf-8", "replace")) + 1
