"""The hosts of a repository's remotes, read from its configuration, and with them all that are listed there.

Owns where git keeps that configuration. Starts no git, follows no `include`
and no `insteadOf`, and takes a broken file for one without remotes: what is not understood allows nothing.
Whoever may write the file may name a host in it, so it is to be read before commands run, and not again.
"""

import os
import re
from collections.abc import Iterable, Iterator

from custody.sandbox.egress.registries import REGISTRIES
from custody.sandbox.egress.rules import Refused, plain_host
from custody.sandbox.git_config import read_text, variables

CONFIG_BYTES_MAX = 1 << 20  # git's own are some hundred bytes, those of many branches some hundred kB
POINTER_BYTES_MAX = 8_192  # of `.git` and `commondir` that are files: a path
REMOTES_MAX = 32
"""Hosts that are taken; the list of a sandbox has room for 256 in all."""

_PORTS = {"https": 443, "http": 80, "ssh": 22, "git+ssh": 22, "ssh+git": 22}

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#\\]*)")
_SCP_LIKE = re.compile(r"(?:[^@/\\:\s]+@)?(\[[^\]/]+\]|[^@:/\\\s\[\]]+):(?!/{2})")


def remotes_of(folder: str) -> tuple[str, ...]:
    """The hosts of the remotes of the repository whose work tree (or bare repository) this folder is, as
    they are listed; addresses that are not public are left out. Sorted."""
    text = _configuration(folder)
    hosts = {host for url in _urls(text) for host in _host_of(url)}
    return tuple(sorted(hosts)[:REMOTES_MAX])


def hosts_listed(own: Iterable[str], folder: str) -> tuple[str, ...]:
    """What commands in this folder may reach where a sandbox lists hosts: a user's own, the registries of
    packages, and the remotes of its repository."""
    return tuple(dict.fromkeys((*own, *REGISTRIES, *remotes_of(folder))))


# -- where the configuration is -------------------------------------------------------------------------


def _configuration(folder: str) -> str:
    git = os.path.join(folder, ".git")
    if os.path.isfile(git):  # of a further work tree or a submodule
        pointed = _first_line(git).removeprefix("gitdir:").strip()
        git = os.path.join(folder, pointed) if pointed else git
    elif not os.path.isdir(git):
        git = folder
    common = _first_line(os.path.join(git, "commondir"))
    if common:
        git = os.path.join(git, common)
    return read_text(os.path.join(git, "config"), CONFIG_BYTES_MAX)


def _first_line(path: str) -> str:
    return read_text(path, POINTER_BYTES_MAX).partition("\n")[0].strip()


# -- what it says ---------------------------------------------------------------------------------------


def _urls(text: str) -> Iterator[str]:
    """`url` and `pushurl` of the sections `[remote "…"]`."""
    for variable in variables(text):
        of_remote = variable.section == "remote" and variable.subsection is not None
        if of_remote and variable.name in ("url", "pushurl") and variable.value:
            yield variable.value


def _host_of(url: str) -> Iterator[str]:
    """None of a path, of `ext::`, of a scheme that is not encrypted or asked for by name."""
    found = _URL.match(url)
    if found is not None:
        port = _PORTS.get(found[1].lower())
        place = found[2].rpartition("@")[2]
        if port is not None and place:
            yield from _listed(place, port)
    elif "::" not in url.partition("/")[0] or "[" in url:
        place = _SCP_LIKE.match(url)
        if place is not None:
            yield from _listed(place[1], 22)


def _listed(place: str, port: int) -> Iterator[str]:
    inside, bracket, rest = place[1:].partition("]") if place.startswith("[") else (place, "", "")
    host, colon, written = (inside, rest[:1], rest[1:]) if bracket else place.partition(":")
    if colon and written:
        port = int(written) if written.isascii() and written.isdigit() and len(written) <= 5 else 0
    try:
        name, kind = plain_host(host)
    except Refused:
        return
    if kind in ("public", "name") and 0 < port < 65_536:
        yield f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
