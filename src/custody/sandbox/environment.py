"""Which of the parent's variables a command is given.

Owns the allow list and the two ways of choosing. The environment is built from nothing: a variable that
no rule lets through is absent, whatever it is called. What looks like a secret is somebody else's to say
and handed in. Used by whoever makes a `Command`.
"""

import os
from collections.abc import Callable, Mapping
from typing import Literal

EnvironmentMode = Literal["all_but_secret", "allow_list"]
"""The command line hands on all but secret-looking names; doors that serve agents only the allow list."""

SAFE_NAMES = frozenset({
    "PATH", "HOME", "USER", "SHELL", "LANG", "TERM", "TZ", "TMPDIR", "VIRTUAL_ENV", "CI",
    "http_proxy", "https_proxy", "no_proxy", "all_proxy",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
})  # fmt: skip
"""Names most programs need to work at all, none of which is where secrets are kept."""

SAFE_PREFIX = "LC_"  # the locale's categories


def build_environment(
    parent: Mapping[str, str],
    mode: EnvironmentMode,
    add: Mapping[str, str],
    secret: Callable[[str], bool],
) -> tuple[dict[str, str], tuple[str, ...]]:
    """The command's environment, and the names of the parent that were withheld, sorted.

    A name in `add` wins over everything: someone asked for it.
    """
    environment: dict[str, str] = {}
    withheld: list[str] = []
    for name, value in parent.items():
        if name in add:
            continue
        if (mode == "all_but_secret" or _is_safe(name)) and not secret(name):
            environment[name] = value
        else:
            withheld.append(name)
    environment.update(add)
    return environment, tuple(sorted(withheld))


class InheritedEnvironment:
    """What the commands of one program are given of its environment; judged anew when that has changed."""

    def __init__(self, mode: EnvironmentMode, add: Mapping[str, str], secret: Callable[[str], bool]) -> None:
        self._mode: EnvironmentMode = mode
        self._add = add
        self._secret = secret
        self._judged: dict[bytes, bytes] | None = None
        self._built: tuple[dict[str, str], tuple[str, ...]] = ({}, ())

    def __call__(self) -> tuple[dict[str, str], tuple[str, ...]]:
        """As `build_environment`."""
        ours = dict(os.environb)
        if ours != self._judged:
            self._built = build_environment(os.environ, self._mode, self._add, self._secret)
            self._judged = ours
        return self._built


def _is_safe(name: str) -> bool:
    return name in SAFE_NAMES or name.startswith(SAFE_PREFIX)
