"""The launcher as a program: `python -I -S program.py DESCRIPTOR PARENT NO_NEW_PRIVS CGROUP PLAN`.

A file of its own because a program is compiled at every start, and what it imports is not. Started by
`process`.
"""

import os
import sys

if __name__ == "__main__":
    sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    from launcher.service import main  # pyright: ignore[reportMissingImports, reportUnknownVariableType]

    main(sys.argv[1:])
