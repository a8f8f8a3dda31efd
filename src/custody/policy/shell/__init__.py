"""What a shell line would start, read and never run.

Owns reading: the grammar of POSIX sh with what people write of bash, programs that start other programs,
and which programs with which options only read. Refuses to know files, the environment and the network: it
sees text and says what cannot be told from it. Used by the facts of a call.
"""

from custody.policy.shell.line import Program, Redirect, ShellLine, Word
from custody.policy.shell.programs import is_harmless
from custody.policy.shell.reader import read_argv, read_shell

__all__ = ["Program", "Redirect", "ShellLine", "Word", "is_harmless", "read_argv", "read_shell"]
