"""The launcher as a program: `python -I -S program.py DESCRIPTOR PARENT NO_NEW_PRIVS CGROUP PLAN`; and the
template that launchers are forked of: `program.py template DESCRIPTOR PARENT`.

A file of its own because a program is compiled at every start, and what it imports is not. Started by
`one_launcher` and `template`.
"""

import os
import sys

if __name__ == "__main__":
    sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    if sys.argv[1] == "template":
        from launcher import template  # pyright: ignore[reportMissingImports, reportUnknownVariableType]

        template.main(int(sys.argv[2]), int(sys.argv[3]))  # pyright: ignore[reportUnknownMemberType]
    else:
        from launcher import service  # pyright: ignore[reportMissingImports, reportUnknownVariableType]

        service.main(sys.argv[1:])  # pyright: ignore[reportUnknownMemberType]
