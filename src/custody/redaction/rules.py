"""The rules a scanner has from the start: every kind of secret it knows by its format.

Owns the list, put together from the tables of `rules_cloud` to `rules_general`; all are literals, since
reading them from a file would cost each start of a process. They are the floor: rules may be added, none
taken away. Formats are the providers' published ones; which text a kind hits and which it leaves is stated
by the generated examples in the tests. Knows nothing of how texts are searched. Used by the redactor and by
whoever lists the rules.
"""

from custody.redaction.rule import ScanRule
from custody.redaction.rules_cloud import CLOUD_RULES
from custody.redaction.rules_code import CODE_RULES
from custody.redaction.rules_general import GENERAL_RULES
from custody.redaction.rules_models import MODEL_RULES
from custody.redaction.rules_services import SERVICE_RULES
from custody.redaction.rules_tools import TOOL_RULES

RULES: tuple[ScanRule, ...] = (
    CLOUD_RULES + CODE_RULES + MODEL_RULES + SERVICE_RULES + TOOL_RULES + GENERAL_RULES
)
"""Provider's formats first: of two that hit the same stretch the first gives the name."""
