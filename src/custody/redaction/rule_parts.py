"""What the patterns of rules are put together from: where a token may begin and end, and how a name is given
a value.

Owns these pieces of RE2 syntax. Used by the tables of rules.
"""

AT = r"(?:\b|_|\\+[abfnrtv]|\\+u[0-9A-Fa-f]{4}|\\+x[0-9A-Fa-f]{2}|[%=][0-9A-Fa-f]{2}|\x1b\[[0-9;]{0,16}m)"
"""Where a token may begin: at a word's edge, behind an underscore, and behind an escape of JSON, a shell, a
URL or a terminal, whose last character looks like a part of the word."""

END = r"(?:\b|_)"
"""Where a token of a fixed length ends."""

ALONE = (
    r"(?:^|[^0-9A-Za-z+_-]|\\+[abfnrtv]|\\+u[0-9A-Fa-f]{4}|\\+x[0-9A-Fa-f]{2}|%[0-9A-Fa-f]{2}"
    r"|\x1b\[[0-9;]{0,16}m)"
)
"""Where a token begins that must not be a piece of a longer text of such characters, an image's in base64."""

ALONE_END = r"(?:[^0-9A-Za-z+_=-]|$)"

IS = r"[\"'`\\]*\s{0,4}(?:=>|:=|[:=,]|\bis\b)?\s{0,4}[\"'`\\]*(?:Bearer\s|Token\s)?"
"""Between a name and its value, in JSON, YAML, an environment, a program, a header or a command line."""

SLASH = r"(?:\\*/|%2[Ff])"
"""Between the parts of a path, in JSON and in a URL as well."""

UUID = r"[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}"


def named(names: str, value: str) -> str:
    """A value without a prefix of its own: a secret by the provider's name in front and by its format."""
    return rf"(?i:{names}){IS}({value})(?:[^0-9A-Za-z_-]|$)"
