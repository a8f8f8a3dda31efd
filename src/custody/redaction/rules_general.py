"""Rules for secrets that no one provider hands out: keys in files, tokens in headers and URLs, and what
people write behind `password =`.

Owns the table, one entry a kind. Used by `rules`.
"""

from custody.redaction.rule import ScanRule
from custody.redaction.rule_parts import AT

_QUOTE = r"\\*[\"'`]"
"""A quotation mark, in JSON within JSON as well."""

_GAP = r"(?:\s|\\+[nrt])"
"""A blank or a line's end, in JSON as well."""

_TOKEN_OWNERS = (
    r"access|auth|api|refresh|bearer|id|session|secret|bot|user|admin|root|deploy|service|personal|security|csrf"
    r"|xsrf|app|client|private|github|gh|gitlab|npm|slack|vault|registry|repo|ci|push|hub|hook|device|sas|jwt|read"
    r"|write"
)
_KEY_OWNERS = (
    "api", "access", "secret", "private", "auth", "encryption", "signing", "master", "account", "shared",
    "deploy", "hmac", "session", "license", "app",
)  # fmt: skip
_SECRET_NAME = (
    rf"(?:(?i:\b_?secret|[_-]secret|(?:{'|'.join(_KEY_OWNERS)})[_-]?keys?(?:[_-]?base)?|\bjwt"
    rf"|(?:{_TOKEN_OWNERS})[_-]?token)|[a-z]Secret|[A-Z0-9]_TOKEN|(?:^|[^0-9A-Za-z_-]|\\+[nrt])[Tt]oken|\bTOKEN)"
    r"(?:_?[0-9])?"
)
"""How names end whose value is a secret, as `keys` judges them; places in a list (`nextToken`) do not."""

_PASSWORD_NAME = (
    r"(?i:password|passwd|passphrase|passcode|[a-z0-9]_pass|[a-z0-9]_pwd|\bpwd|userpass|dbpass)(?:_?[0-9])?"
)

_SET_QUOTED = (
    rf"(?:{_QUOTE})?\s{{0,8}}(?::\s{{0,4}}[A-Za-z_][\w.\[\] |]{{0,40}}=|:=|=>|=|:)\s{{0,8}}[bruf]?{_QUOTE}"
)
_QUOTED_PASSWORD = rf"([^\x00-\x20\x7f\"'`\\]{{6,}}){_QUOTE}"
_QUOTED_SECRET = rf"([^\x00-\x20\x7f\"'`\\]{{8,}}){_QUOTE}"

_SET_HEADER = rf"(?:{_QUOTE})?\s{{0,4}}[:=,]\s{{0,4}}(?:[bf]?{_QUOTE})?"
_SET_BARE = r"\s{0,2}=[ \t]?"
_SET_YAML = r":[ \t]{1,8}"
_BARE_VALUE = r"([^\x00-\x20\x7f\"'`\\<>]{8,})"
_PEM_BEGIN = r"-----BEGIN [0-9A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?-----"

_WITHIN_LINE = r"(?:(?:[^\n\\]|\\[^n])*?\s)??"
"""Further words of a command, not beyond its line, which in JSON ends with an escape."""

_YAML_BASE64 = r"(?:[ \t]+[\w.-]+:[ \t]{1,4}[\"']?[0-9A-Za-z+/]{4,}={0,2}[\"']?[ \t]*(?:\n|$))"

_BARE_ENDINGS = ("=", " =", ":")
_ENDINGS = (*_BARE_ENDINGS, '"', "'", "\\")
"""What stands behind a name that is given a value. Such words are in much text that has nothing to hide."""

_PASSWORD_WORDS = ("passwd", "passphrase", "passcode", "_pass", "_pwd", "pwd=", "userpass", "dbpass")
_SECRET_WORDS = ("jwt", *(owner + joint + "key" for owner in _KEY_OWNERS for joint in ("_", "-", "")))


def _given(words: tuple[str, ...], endings: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(word + ending for word in words for ending in endings)


_PARAMETERS = (
    "access_token", "auth_token", "api_token", "id_token", "refresh_token", "session_token", "private_token",
    "token", "api_key", "apikey", "api-key", "client_secret", "secret", "password", "passwd", "pwd", "jwt",
    "subscription-key",
)  # fmt: skip

_HEADERS = (
    "api-key", "apikey", "-token", "x-auth-key", "apim-subscription-key", "functions-key",
)  # fmt: skip


def _any(words: tuple[str, ...]) -> str:
    return "(?i:" + "|".join(words) + ")"


GENERAL_RULES: tuple[ScanRule, ...] = (
    # -- keys in files
    ScanRule(
        id="private_key",
        kind="Private key in PEM, OpenSSH or OpenPGP form, encrypted or not",
        keywords=("private key-----", "private key block-----"),
        pattern=rf"({_PEM_BEGIN}(?:-?[^-]){{32,}}?-{{4,}}-?END [0-9A-Z ]{{0,40}}PRIVATE KEY(?: BLOCK)?-----"
        rf"|{_PEM_BEGIN}[\"'+]{{0,3}}{_GAP}*(?:[A-Za-z-]+: [^\n\\]*{_GAP}+)*"
        rf"(?:[0-9A-Za-z+/=]{{16,}}[\"',+]{{0,3}}{_GAP}*)+)",
        secret=1,
        check="key_block",
        after=16384,
    ),
    ScanRule(
        id="putty_key",
        kind="Private key in PuTTY's form",
        keywords=("private-lines:",),
        pattern=rf"(?i:private-lines): [0-9]{{1,4}}{_GAP}+((?:[0-9A-Za-z+/=]{{4,80}}{_GAP}+)+)",
        secret=1,
        check="key_block",
        after=8192,
    ),
    ScanRule(
        id="age_key",
        kind="age secret key",
        keywords=("AGE-SECRET-KEY-1",),
        pattern=r"((?i:AGE-SECRET-KEY-1[02-9AC-HJ-NP-Z]{58}))",
        secret=1,
        check="bech32",
        run=74,
    ),
    ScanRule(
        id="password_hash",
        kind="Password hash (bcrypt, SHA-crypt, yescrypt, Argon2)",
        keywords=("$2a$", "$2b$", "$2y$", "$5$", "$6$", "$y$", "$argon2"),
        pattern=r"(\$2[aby]\$[0-9]{2}\$[./0-9A-Za-z]{53}"
        r"|\$[56]\$(?:rounds=[0-9]{1,9}\$)?[./0-9A-Za-z]{1,16}\$[./0-9A-Za-z]{43,86}"
        r"|\$y\$[./0-9A-Za-z]{1,8}\$[./0-9A-Za-z]{1,86}\$[./0-9A-Za-z]{43}"
        r"|\$argon2(?:id?|d)\$v=[0-9]{1,3}\$[a-z0-9=,]{5,40}\$[+/0-9A-Za-z]{11,64}\$[+/0-9A-Za-z]{32,128})",
        secret=1,
        check="varied",
    ),
    ScanRule(
        id="kubernetes_secret",
        kind="Data of a Kubernetes Secret in YAML",
        keywords=("kind: secret",),
        pattern=r"kind: Secret[ \t]*\n(?:(?:[^d\n-][^\n]*)?\n)*?data:[ \t]*\n(" + _YAML_BASE64 + r"+)",
        secret=1,
        after=8192,
    ),
    ScanRule(
        id="kubernetes_secret_listed",
        kind="Data of a Kubernetes Secret in YAML, as kubectl lists it",
        keywords=("kind: secret",),
        pattern=rf"(?m:^)[ \t]*data:[ \t]*\n({_YAML_BASE64}+)(?:[ \t]*[a-z][^\n]*\n)??[ \t]*kind: Secret\b",
        secret=1,
        before=8192,
    ),
    # -- tokens, headers and addresses
    ScanRule(
        id="jwt",
        kind="JSON Web Token",
        keywords=(".eyJ", "eyJhbGci", "eyJ0eXAi", "eyJraWQi", "eyJlbmMi", "eyJjdHki", "eyJ4NX", "ewogIC"),
        keywords_exact=True,
        pattern=AT + r"(e[yw][0-9A-Za-z_-]{10,}\.[0-9A-Za-z_-]{4,}(?:\.[0-9A-Za-z_-]{4,}){1,3})",
        secret=1,
        check="jwt",
        before=1024,
        after=4096,
    ),
    ScanRule(
        id="basic_auth",
        kind="Name and password of HTTP Basic authentication",
        keywords=("basic ",),
        pattern=r"(?i:basic)\s{1,4}([0-9A-Za-z+/_-]{8,}={0,2})(?:[^0-9A-Za-z+/=_-]|$)",
        secret=1,
        check="basic",
        run=8,
    ),
    ScanRule(
        id="bearer_token",
        kind="Token in an Authorization header",
        keywords=("bearer ", "bearer%20", "authorization"),
        pattern=rf"(?:(?i:authorization){_SET_HEADER}(?i:bearer|token|apikey|api-key|bot|key|ssws|genie-?key|splunk"
        r"|oauth|x-token|negotiate)(?:\s{1,4}|%20)(?:token=[\"']?)?|(?i:bearer)(?:\s{1,4}|%20))"
        r"([0-9A-Za-z._~+/%:-]{12,}={0,3})",
        secret=1,
        check="credential",
        run=12,
        before=64,
        after=128,
    ),
    ScanRule(
        id="authorization",
        kind="Authorization header without a scheme",
        keywords=("authorization",),
        pattern=AT
        + rf"(?i:authorization){_SET_HEADER}([0-9A-Za-z._~+/-]{{16,}}={{0,3}})(?:{_QUOTE}|\\+[nr]|\s|$)",
        secret=1,
        check="credential",
        run=16,
        before=64,
        after=128,
    ),
    ScanRule(
        id="secret_header",
        kind="Key or token in a header of its own",
        keywords=_HEADERS,
        pattern=r"(?i:(?:api-?key|auth-key|subscription-key|functions-key|(?:auth|access|vault"
        r"|private|job|deploy|session|csrf|xsrf|gitlab|figma|api|security|consul|nomad|refresh)-token))"
        + _SET_HEADER + r"([0-9A-Za-z._~+/%:=|@-]{8,})",
        secret=1,
        check="assigned",
        run=8,
        before=64,
        after=128,
    ),
    ScanRule(
        id="cookie",
        kind="Cookies in a header",
        keywords=("cookie",),
        pattern=rf"(?i:(?:set-)?cookie2?)(?:{_QUOTE})?\s{{0,4}}[:,]\s{{0,4}}(?:{_QUOTE})?"
        r"([0-9A-Za-z!#$%&*+.^_|~-]+=[^\s;\"'\\]{8,}(?:;[^\r\n\"'\\]*)?)",
        secret=1,
        check="cookies",
        after=2048,
    ),
    ScanRule(
        id="url_parameter",
        kind="Token, key or password in a URL's query",
        keywords=("token=", "key=", "secret=", "password=", "passwd=", "pwd=", "jwt="),
        pattern=rf"(?:[?&;#]|%26|%3[Ff]|\\+u0026){_any(_PARAMETERS)}=([^\s&;#\"'<>`\\]{{8,}})",
        secret=1,
        check="assigned",
        before=64,
        after=128,
    ),
    # -- commands, statements and files of settings
    ScanRule(
        id="command_password",
        kind="Password in a command line",
        keywords=(
            "curl ", "mysql", "mariadb", "sshpass", "redis-cli", "docker login", "podman login", "passin ",
            "passout ", "sqlcmd ", "ldapsearch ", "smbclient ", "mongosh ",
        ),
        keywords_exact=True,
        pattern=r"(?:" + AT + r"(?:curl\s" + _WITHIN_LINE
        + r"(?:-[a-zA-Z]{0,6}u\s{0,2}|--(?:proxy-)?user[\s=]{1,2})[\"']?[^\s:\"']*:"
        r"|(?:mysql|mysqldump|mysqladmin|mysqlimport|mariadb|mariadb-dump)\s" + _WITHIN_LINE + r"-p[\"']?"
        r"|sshpass\s+-p\s{0,2}[\"']?|redis-cli\s" + _WITHIN_LINE + r"-a\s{1,2}[\"']?"
        r"|(?:docker|podman)\s+login\s" + _WITHIN_LINE + r"-p[\s=]{1,2}[\"']?"
        r"|(?:sqlcmd|mongosh)\s" + _WITHIN_LINE + r"-[Pp]\s{0,2}[\"']?"
        r"|ldapsearch\s" + _WITHIN_LINE + r"-w\s{0,2}[\"']?"
        r"|smbclient\s" + _WITHIN_LINE + r"-U\s{0,2}[\"']?[^\s%\"']+%)"
        r"|-pass(?:in|out)\s+[\"']?pass:)([^\s\"'\\-][^\s\"'\\]{3,})",
        secret=1,
        check="given",
    ),
    ScanRule(
        id="option_secret",
        kind="Secret as the value of a long option",
        keywords=(
            "-password", "-passwd", "-passphrase", "-secret", "-api-key", "-apikey", "-access-key",
            "-private-key", "-token",
        ),
        pattern=r"(?:^|[\s\"'`]|\\+[nrt])--?(?:(?:[a-z0-9]{1,20}-){0,3}(?:password|passwd|passphrase|secret|secret-key"
        rf"|api-?key|access-key|private-key)|(?:[a-z0-9]{{1,20}}-)?(?:{_TOKEN_OWNERS})-token|token)(?:=|\s{{1,2}})"
        rf"(?:{_QUOTE})?([^\s\"'`\\<>-][^\s\"'`\\<>]{{5,}})",
        secret=1,
        check="password_bare",
        before=64,
        after=128,
    ),
    ScanRule(
        id="sql_password",
        kind="Password in an SQL statement",
        keywords=("identified by", "identified with", "password '", "password e'", "password \\"),
        pattern=r"(?i:identified\s{1,4}(?:with\s{1,4}[\w'\"]{1,40}\s{1,4})?(?:by|as)\s{1,4}(?:password\s{1,4})?"
        r"|(?:create|alter)\s{1,4}(?:role|user|login)\s[^;\n]+?\bpassword\s{1,4}e?)"
        r"\\*'([^'\s\\]{3,})\\*'",
        secret=1,
        check="given",
    ),
    ScanRule(
        id="connection_password",
        kind="Password in a connection string",
        keywords=("password=", "pwd=", "password ="),
        pattern=r"(?i:(?:server|data source|addr|address|host|user id|uid|user|username|database|driver"
        r"|endpoint)\s?=[^\n\"']+?;\s?(?:password|pwd)\s?=\s?"
        r"|\b(?:host|user|dbname|port|hostaddr)=[^\s\"']+\s(?:[a-z_]+=[^\s\"']+\s)*?password=)([^\s;\"'\\]{3,})",
        secret=1,
        check="given",
        before=512,
    ),
    ScanRule(
        id="netrc_password",
        kind="Password in a .netrc or .pgpass file",
        keywords=("machine ", ":5432:"),
        pattern=rf"(?:{AT}machine{_GAP}+[^\s\\]+{_GAP}+login{_GAP}+[^\s\\]+{_GAP}+password{_GAP}+"
        r"|(?:(?m:^)|\s|\\+n)[\w.*-]+:5432:[^\s:]+:[^\s:]+:)([^\s\\:]{3,})",
        secret=1,
        check="given",
        before=256,
    ),
    ScanRule(
        id="quoted_password",
        kind="Password in quotes behind a name that says so",
        keywords=(*_given(("password",), _ENDINGS), *_PASSWORD_WORDS),
        pattern=_PASSWORD_NAME + _SET_QUOTED + _QUOTED_PASSWORD,
        secret=1,
        check="password",
        before=32,
        after=320,
    ),
    ScanRule(
        id="quoted_secret",
        kind="Key or token in quotes behind a name that says so",
        keywords=(
            *_given(("secret", "token", "credential", "credentials", "cookie"), _ENDINGS), *_SECRET_WORDS
        ),
        pattern=rf"(?:{_SECRET_NAME}|(?i:credentials?|cookies?))" + _SET_QUOTED + _QUOTED_SECRET,
        secret=1,
        check="assigned",
        before=32,
        after=320,
    ),
    ScanRule(
        id="password_setting",
        kind="Password without quotes behind a name that says so (environment, properties, logs)",
        keywords=(*_given(("password",), _BARE_ENDINGS), *_PASSWORD_WORDS),
        pattern=rf"{_PASSWORD_NAME}(?:{_SET_BARE}|{_SET_YAML}){_BARE_VALUE}",
        secret=1,
        check="password_bare",
        before=64,
        after=48,
    ),
    ScanRule(
        id="environment_secret",
        kind="Key or token of a variable in capitals",
        keywords=_given(("SECRET", "TOKEN", "KEY", "JWT"), ("=",)),
        keywords_exact=True,
        pattern=r"[A-Z0-9]_?(?:SECRET|TOKEN|JWT|API_?KEY|ACCESS_?KEY|(?:SECRET|PRIVATE|AUTH|ENCRYPTION|SIGNING|MASTER)_KEY)"
         r"(?:_?[0-9])?=" + _BARE_VALUE,
        secret=1,
        check="assigned",
        before=32,
        after=48,
        run=12,
    ),
    ScanRule(
        id="secret_setting",
        kind="Key or token without quotes behind a name that says so (environment, properties, YAML)",
        keywords=(*_given(("secret", "token"), _BARE_ENDINGS), *_SECRET_WORDS),
        pattern=rf"{_SECRET_NAME}(?:{_SET_BARE}|{_SET_YAML}){_BARE_VALUE}",
        secret=1,
        check="assigned_bare",
        before=64,
        after=48,
    ),
)  # fmt: skip
