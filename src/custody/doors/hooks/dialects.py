"""Which CLIs are known. Used by whatever takes a CLI's name."""

from collections.abc import Mapping

from custody.doors.hooks.claude_code import CLAUDE_CODE
from custody.doors.hooks.codex import CODEX
from custody.doors.hooks.event import Dialect
from custody.doors.hooks.gemini import GEMINI

DIALECTS: Mapping[str, Dialect] = {dialect.name: dialect for dialect in (CLAUDE_CODE, CODEX, GEMINI)}
