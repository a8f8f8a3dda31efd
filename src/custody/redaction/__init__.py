"""What is not kept: secrets are replaced before the first byte of a record is written.

Owns the turning of any Python value into the bytes of a payload, and the three rules applied on the way:

- `sensitive_key`: a value filed under a name that says it is a secret, at any depth of mappings, in an
  argument list (`--api-key VALUE`, `NAME=value`) or in a `name`/`value` pair. A name is split into words
  at case, `_`, `-` and anything else that is no letter; the last word, or the last two, decide.
- `known_value`: a value the runtime was told of (`secrets_of` finds them in an environment), wherever it
  stands inside a string, bytes or a mapping's key.
- `url_credentials`: the password of `https://user:secret@host`, or the token that stands there alone.

A secret becomes `[redacted:RULE:FP]`, FP being the first 8 hex digits of HMAC-SHA256 under the store's
key: equal secrets can be told to be equal, and nothing else. Knows nothing of records' fields, of files
or of which tool was called. Used by the recorder, which is the only way on to the record.
"""

from custody.redaction.keys import secret_name, secrets_of
from custody.redaction.redactor import RULES, VALUE_BYTES_MAX, Kept, Redactor
from custody.redaction.secret_tools import SecretTools
from custody.redaction.typed import MARK_KEYS, Mark, plain

__all__ = [
    "MARK_KEYS",
    "RULES",
    "VALUE_BYTES_MAX",
    "Kept",
    "Mark",
    "Redactor",
    "SecretTools",
    "plain",
    "secret_name",
    "secrets_of",
]
