"""Which names say that their value is a secret, and which values of an environment are worth hiding.

Owns the word lists. Pure: knows nothing of values' shapes or of what a secret is replaced with. Used by
the redactor, and by whoever decides what of an environment a child may see.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

_SECRET_WORDS = frozenset({
    # one word
    "password", "passwords", "passwd", "passwds", "passphrase", "passphrases", "passcode",
    "secret", "secrets", "token", "authorization", "cookie", "cookies", "credential", "credentials",
    "bearer", "jwt", "pgpassword", "sshpass",
    # two words, or the same written as one
    "apikey", "apikeys", "accesskey", "accesskeys", "secretkey", "secretkeys", "privatekey", "privatekeys",
    "sessionkey", "sessionkeys", "encryptionkey", "decryptionkey", "signingkey", "masterkey", "accountkey",
    "authkey", "hmackey", "sharedkey", "subscriptionkey", "servicekey", "deploykey", "appkey", "licensekey",
    "unsealkey", "recoverykey", "recoverycodes", "backupcodes", "rediscliauth",
    "accesstoken", "authtoken", "refreshtoken", "bearertoken", "idtoken", "apitoken", "sessiontoken",
    "accesstokens", "authtokens", "refreshtokens", "bearertokens", "apitokens",
    "clientsecret", "clientsecrets", "appsecret", "apisecret", "setcookie",
    "secretvalue", "secretstring", "secretbinary", "tokenvalue", "connectionstring",
    "passwordhash", "passwordconfirm", "passwordconfirmation", "passwordagain",
    "dbpass", "databasepass", "userpass", "adminpass", "rootpass", "mysqlpass", "postgrespass", "redispass",
    "otlpheaders", "tracesheaders", "metricsheaders", "logsheaders",  # OTEL_EXPORTER_OTLP_…
    "smtppass", "mailpass", "emailpass", "sshpassword", "proxypass", "httppass", "ftppass", "sudopass",
    "dbpwd", "databasepwd", "userpwd", "adminpwd", "rootpwd", "mysqlpwd", "smtppwd",
})  # fmt: skip
"""The last word of a name, or its last two put together. `key`, `pass`, `pwd`, `auth` and `tokens` alone
are left out: they are sort keys, passed tests, working directories, schemes and counts far more often."""

_ORDINARY_PAIRS = frozenset({
    "pagetoken", "nexttoken", "previoustoken", "prevtoken", "continuationtoken", "continuetoken",
    "progresstoken", "resumetoken", "synctoken", "cursortoken", "markertoken", "paginationtoken",
    "cancellationtoken", "canceltoken",
    "eostoken", "bostoken", "padtoken", "unktoken", "masktoken", "septoken", "clstoken", "specialtoken",
    "stoptoken", "addedtoken", "starttoken", "endtoken", "maxtoken", "mintoken", "pertoken", "firsttoken",
    "lasttoken", "inputtoken", "outputtoken", "prompttoken", "completiontoken", "totaltoken",
})  # fmt: skip
"""Names that end in `token` and hold a place in a list, a tokenizer's symbol or a count."""

_ASKING_WORDS = frozenset({"has", "is", "show", "hide", "require", "requires", "needs", "can", "should"})
"""First words of names that ask whether there is a secret: `has_password`, `isSecret`."""

_SWITCH_WORDS = frozenset({
    "no", "ask", "prompt", "use", "with", "without", "show", "hide", "list", "print", "generate", "create",
    "reset", "revoke", "rotate", "has", "is", "require", "requires", "allow", "skip", "ignore",
})  # fmt: skip
"""First words of options that take no value: what follows `--no-password` is not a password."""

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")

NAME_CHARACTERS_MAX = 256
"""Of a longer name only the end is looked at: it is the last words that decide."""

NAMES_REMEMBERED_MAX = 8192


def _words(name: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(name)]


def _secret_words(words: Sequence[str]) -> bool:
    if not words:
        return False
    pair = "".join(words[-2:])
    if pair in _ORDINARY_PAIRS or (words[0] in _ASKING_WORDS and len(words) > 1):
        return False
    return words[-1] in _SECRET_WORDS or pair in _SECRET_WORDS


def secret_name(name: str) -> bool:
    """Whether a value called so is a secret: `API_KEY`, `clientSecret`, `X-Auth-Token`; not `token_count`."""
    return _judged(name[-NAME_CHARACTERS_MAX:])


@lru_cache(NAMES_REMEMBERED_MAX)
def _judged(name: str) -> bool:
    return _secret_words(_words(name))


# -- argument lists -----------------------------------------------------------------------------------

_ASSIGNMENT = re.compile(r"-{0,2}([A-Za-z_][\w.-]{0,127})=(?=.)", re.DOTALL)
_HEADER = re.compile(r"([A-Za-z][A-Za-z0-9-]{0,63}):\s*(?=\S)")
_HEADER_OPTIONS = frozenset({"-H", "--header", "--proxy-header"})
_AUTHENTICATING_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", "set-cookie"})


def secret_arguments(items: Sequence[object]) -> Iterator[tuple[int, int]]:
    """Where secrets stand in a list such as an argv or `docker inspect`'s environment: (index, offset).

    `--password=x`, `API_KEY=x`, `--token` followed by `x`, `-H` followed by `X-Api-Key: x`, and
    `Authorization: x` anywhere.
    """
    before: object = None
    for index, item in enumerate(items):
        if type(item) is str and item:
            start = _secret_offset(item, before)
            if start is not None:
                yield index, start
        before = item


def has_secret_argument(items: Sequence[object]) -> bool:
    """Whether `secret_arguments` finds any; quick where few items look like options or assignments."""
    before: object = None
    for item in items:
        if type(item) is str:
            looks = "=" in item or ":" in item or (type(before) is str and before[:1] == "-")
            if looks and item and _secret_offset(item, before) is not None:
                return True
        before = item
    return False


def _secret_offset(item: str, before: object) -> int | None:
    """Where in one argument the secret begins, given the argument before it."""
    if "=" in item and (found := _ASSIGNMENT.match(item)) is not None and secret_name(found[1]):
        return found.end()
    if ":" in item and (found := _HEADER.match(item)) is not None:
        name = found[1]
        if name.lower() in _AUTHENTICATING_HEADERS or (_is_header_option(before) and secret_name(name)):
            return found.end()
    if type(before) is str and before[:1] == "-" != item[:1] and len(before) <= NAME_CHARACTERS_MAX:
        return 0 if _option_takes_secret(before) else None
    return None


def _is_header_option(before: object) -> bool:
    return type(before) is str and before in _HEADER_OPTIONS


@lru_cache(NAMES_REMEMBERED_MAX)
def _option_takes_secret(option: str) -> bool:
    if "=" in option or any(map(str.isspace, option)):
        return False
    words = _words(option)
    return _secret_words(words) and words[0] not in _SWITCH_WORDS


# -- environments -------------------------------------------------------------------------------------

KNOWN_CHARACTERS_MIN = 6
"""Shorter values stand in ordinary text by chance."""

_DIGITS_MIN = 8
"""A shorter number is a port, a size or a count."""

_TRIVIAL_VALUES = frozenset({
    "required", "optional", "enabled", "disabled", "default", "unset", "undefined", "nothing", "redacted",
    "password", "passwd", "passphrase", "secret", "secrets", "token", "cookie", "credential", "credentials",
    "bearer", "changeme", "change-me", "change_me", "example", "placeholder", "dummy1", "testing",
    "development", "production", "staging", "localhost", "postgres", "postgresql", "docker", "github",
    "keyring", "keychain", "osxkeychain", "libsecret", "manager", "memory", "session", "string", "system",
})  # fmt: skip
"""Words that are values of secret-looking variables and of much else: hiding them hides ordinary text."""

_FILE = re.compile(
    r"(~|\.{1,2}|/(bin|boot|dev|etc|home|lib|lib64|media|mnt|opt|proc|root|run|sbin|srv|sys|tmp|usr|var"
    r"|Users|Library|app|workspace|workspaces|secrets|credentials|data))(/[\w.@+ -]+)+/?"
)
"""A secret-looking variable often names the *file* that holds the secret."""


def secrets_of(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables whose names look secret and whose values can be told from ordinary text."""
    return {name: value for name, value in environ.items() if secret_name(name) and _worth_hiding(value)}


def _worth_hiding(value: str) -> bool:
    value = value.strip()
    if len(value) < KNOWN_CHARACTERS_MIN or value.lower() in _TRIVIAL_VALUES:
        return False
    if value.isdigit() and len(value) < _DIGITS_MIN:
        return False
    return len(set(value)) > 2 and _FILE.fullmatch(value) is None
