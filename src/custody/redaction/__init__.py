"""What is not kept: secrets are replaced before the first byte of a record is written.

Owns the turning of any Python value into the bytes of a payload, and the rules applied on the way:

- `sensitive_key`: a value filed under a name that says it is a secret, at any depth of mappings, in an
  argument list (`--api-key VALUE`, `NAME=value`) or in a `name`/`value` pair. A name is split into words
  at case, `_`, `-` and anything else that is no letter; the last word, or the last two, decide.
- `known_value`: a value the runtime was told of (`secrets_of` finds them in an environment), wherever it
  stands inside a string, bytes or a mapping's key, in any of the ways it may be written there.
- `url_credentials`: the password of `https://user:secret@host`, or the token that stands there alone.
- scanner rules: text in the format of one kind of secret, found by a keyword, a pattern and mostly a checksum
  or a test of variety; plain, or in base64, hexadecimal or a URL. `rules` has those that ship; `load_rules`
  reads more.
- `unscanned`: what was not searched, because the record's budget was spent: of that only a digest is kept.

A secret becomes `[redacted:RULE:FP]`, FP being the first 8 hex digits of HMAC-SHA256 under the store's
key: equal secrets can be told to be equal, and nothing else. Knows nothing of records' fields, of files
or of which tool was called. Used by the recorder, which is the only way on to the record.
"""

from custody.redaction.keys import secret_name, secrets_of
from custody.redaction.redactor import Kept, Redactor
from custody.redaction.rule import ScanRule
from custody.redaction.rule_files import load_rules
from custody.redaction.scanner import Hit, OverBudget
from custody.redaction.secret_tools import SecretTools
from custody.redaction.typed import MARK_KEYS, Mark, plain
from custody.redaction.walk import VALUE_BYTES_MAX

__all__ = [
    "MARK_KEYS",
    "VALUE_BYTES_MAX",
    "Hit",
    "Kept",
    "Mark",
    "OverBudget",
    "Redactor",
    "ScanRule",
    "SecretTools",
    "load_rules",
    "plain",
    "secret_name",
    "secrets_of",
]
