"""Hosts that a program would connect to, told from its arguments.

Owns which operands of the well-known network programs are hosts. Used by the facts of a call. A host that
stands in a word only running the line would tell is given as one of kind `odd`, so that a list of allowed
hosts does not pass it by.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from custody.hosts import Host, host_and_port, host_of, hosts_in
from custody.policy.shell import Program, Word

UNKNOWN_HOST = Host(host="", kind="odd")
"""A host that cannot be told."""

_CURL_VALUES = "AbcCdDeEFhHKmoPQrTtuUwXyYz"
_CURL_LONG = frozenset(
    (
        "output header data data-raw data-binary data-urlencode json form request user user-agent max-time "
        "connect-timeout cookie cookie-jar cert key cacert capath range referer retry retry-delay write-out "
        "upload-file limit-rate output-document directory-prefix post-data post-file tries timeout wait "
        "quota load-cookies save-cookies password body-data method append-output output-file input-file"
    ).split()
)
_WGET_VALUES = "oOaeitTwQPUlARDIX"
_SSH_VALUES = "BbcDEeFIiJLlmOopQRSWw"


def hosts_of_program(program: Program) -> Iterator[Host]:
    """Hosts in URLs of its words, and operands that its program takes for hosts."""
    for word in program.words:
        yield from hosts_in(word.known)
    read = _READERS.get(program.name or "")
    if read is not None:
        yield from read(program.words)


def _operands(
    words: Sequence[Word], values: str, long_values: frozenset[str] = frozenset()
) -> Iterator[Word]:
    """Words that are neither options nor the values of options."""
    takes_value = only_operands = False
    for word in words:
        text = word.text
        if takes_value:
            takes_value = False
        elif text is None or only_operands or not text.startswith("-") or text == "-":
            yield word
        elif text == "--":
            only_operands = True
        elif text.startswith("--"):
            takes_value = text[2:] in long_values
        else:
            place = next((at for at, letter in enumerate(text[1:], 2) if letter in values), None)
            takes_value = place == len(text)


def _host(word: Word) -> Iterator[Host]:
    if word.text is None:
        yield UNKNOWN_HOST
    else:
        yield from host_and_port(word.text.removeprefix("@"))


def _every(values: str) -> Callable[[Sequence[Word]], Iterator[Host]]:
    """`curl`: each operand is a URL, with or without its scheme."""

    def read(words: Sequence[Word]) -> Iterator[Host]:
        for word in _operands(words, values, _CURL_LONG):
            yield from _host(word)

    return read


def _first(values: str) -> Callable[[Sequence[Word]], Iterator[Host]]:
    """`ssh`: the first operand is a host; a number behind it is its port (`nc`)."""

    def read(words: Sequence[Word]) -> Iterator[Host]:
        operands = list(_operands(words, values))
        if not operands:
            return
        following = operands[1].text if len(operands) > 1 else None
        port = int(following) if following is not None and re.fullmatch(r"[0-9]{1,5}", following) else None
        for host in _host(operands[0]):
            yield Host(
                host=host.host,
                port=host.port or port,
                scheme=host.scheme,
                address=host.address,
                kind=host.kind,
            )

    return read


def _remote_paths(words: Sequence[Word]) -> Iterator[Host]:
    """`scp`, `rsync`, `git`: `host:path`, the colon in front of any slash."""
    for word in words:
        if word.text is None:
            if "/" not in word.prefix and not word.pattern:
                yield UNKNOWN_HOST
            continue
        found = re.match(r"(?:[^/@:\s]*@)?(\[[^\]/]+\]|[^/:@\s-][^/:@\s]*):(?!//)", word.text)
        if found is not None:
            yield host_of(found[1], scheme="ssh")


def _git(words: Sequence[Word]) -> Iterator[Host]:
    if any(
        word.text in ("clone", "fetch", "pull", "push", "ls-remote", "remote", "submodule")
        for word in words[:4]
    ):
        yield from _remote_paths(words)


_READERS: Mapping[str, Callable[[Sequence[Word]], Iterator[Host]]] = {
    "curl": _every(_CURL_VALUES),
    "wget": _every(_WGET_VALUES),
    "wget2": _every(_WGET_VALUES),
    "http": _every(""),
    "https": _every(""),
    "xh": _every(""),
    "aria2c": _every("dos"),
    "ssh": _first(_SSH_VALUES),
    "sftp": _first(_SSH_VALUES),
    "mosh": _first(""),
    "nc": _first("eGgiIJmMOpPqrsTVwXxz"),
    "ncat": _first("ceGgimopsw"),
    "netcat": _first("egimopqsw"),
    "telnet": _first("belnX"),
    "ftp": _first("PNqrsTu"),
    "ping": _first("cIilMmpQSstTWw"),
    "ping6": _first("cIilMmpQSstTWw"),
    "traceroute": _first("fgimNpqswz"),
    "dig": _every("bcfkpqtxy"),
    "host": _first("ctWRNm"),
    "nslookup": _every(""),
    "whois": _every("hp"),
    "scp": _remote_paths,
    "rsync": _remote_paths,
    "git": _git,
}
