"""What systemd is told (sd_notify(3)), and the unit it starts the daemon by.

Owns the datagrams of that protocol and the watchdog's beat. Where nobody asked to be told, nothing is sent.
Used by `custody serve`.
"""

import asyncio
import contextlib
import os
import re
import socket
from collections.abc import Mapping

PLAIN = re.compile(r"[\w%+,./:=@~-]+")
"""A word of a unit that needs no quotes."""


class Notify:
    """Whoever supervises this process; nobody, where the environment names none."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # sd_notify(3): a path, or with a leading @ a name in the abstract namespace.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        pid, period = environ.get("WATCHDOG_PID", ""), environ.get("WATCHDOG_USEC", "")
        ours = not pid or pid == str(os.getpid())
        self._period_seconds = int(period) / 1e6 if ours and period.isdigit() else 0.0

    def tell(self, *lines: str) -> None:
        """`READY=1`, `STOPPING=1`, `STATUS=…`. Nothing of what may go wrong is the daemon's concern."""
        if self._address:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(1.0)
                sock.sendto("\n".join(lines).encode(), self._address)

    async def beat(self) -> None:
        """Tell the watchdog that the event loop goes round, for as long as it does."""
        while self._address and self._period_seconds > 0:
            self.tell("WATCHDOG=1")
            await asyncio.sleep(self._period_seconds / 2)


def unit_text(command: list[str], drain_seconds: float, environment: Mapping[str, str]) -> str:
    """A user unit that runs this command, for `~/.config/systemd/user/custody.service`."""
    line = " ".join(_quoted(word).replace("$", "$$") for word in command)
    variables = "".join(f"Environment={_quoted(f'{name}={value}')}\n" for name, value in environment.items())
    return f"""\
[Unit]
Description=Custody: guards and records the acts of agents
Documentation=https://pypi.org/project/custody-runtime/

[Service]
Type=notify
{variables}ExecStart={line}
# The daemon ends what it started itself, and seals the store.
KillMode=mixed
TimeoutStopSec={round(drain_seconds) + 30}
WatchdogSec=60
Restart=on-failure
RestartSec=1
UMask=0077
NoNewPrivileges=yes

[Install]
WantedBy=default.target
"""


def _quoted(word: str) -> str:
    """systemd.syntax(7): one word, in which `%` begins no specifier."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return escaped if PLAIN.fullmatch(word) else f'"{escaped}"'
