"""Custody's own log lines, without secrets.

Owns the filter on the logger `custody`, which every module of Custody writes to directly. Knows nothing of
what is logged, nor where lines go. Used by whoever opens a store: an error that is logged may repeat the
arguments it was about.
"""

import logging
import weakref

from custody.redaction.redactor import Redactor

LOGGER = "custody"

UNCHECKED = "[a log line is left out: it could not be searched for secrets]"

_format_exception = logging.Formatter().formatException


class _WithoutSecrets(logging.Filter):
    """Replaces what a redactor of an open store would replace on the record."""

    def __init__(self) -> None:
        super().__init__()
        self.redactors: weakref.WeakSet[Redactor] = weakref.WeakSet()

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            self._clean(record)
        except Exception:  # nobody may be told what could not be looked at
            record.msg, record.args = UNCHECKED, ()
            record.exc_info = record.exc_text = record.stack_info = None
        return True

    def _clean(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        clean = self._text(message)
        if clean != message:
            record.msg, record.args = clean, ()
        if record.exc_info and record.exc_info[0] is not None:
            shown = _format_exception(record.exc_info)
            clean = self._text(shown)
            if clean != shown:
                record.exc_text, record.exc_info = clean, None

    def _text(self, text: str) -> str:
        for redactor in list(self.redactors):
            text = redactor.text(text, "")[0]
        return text


_filter = _WithoutSecrets()


def keep_log_clean(redactor: Redactor) -> None:
    """From here on, no line of Custody's log has what this redactor replaces, for as long as it lives."""
    _filter.redactors.add(redactor)
    logging.getLogger(LOGGER).addFilter(_filter)  # once: it is there or it is added
