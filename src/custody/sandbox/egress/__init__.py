"""What confined commands and `http_fetch` may reach over the network.

`rules` decides about one destination; `proxy` carries that out for a command, with `http1` for the grammar,
`link` for the bytes of one connection, and `forwarding` for what goes between two. `registries` and `remotes`
are what the sandbox `workspace` lists by itself.
"""

from custody.sandbox.egress.proxy import Bounds, Connection, Proxy
from custody.sandbox.egress.registries import REGISTRIES
from custody.sandbox.egress.remotes import remotes_of
from custody.sandbox.egress.rules import Allowed, Destination, Refused, Unresolved, check_hosts, decide

__all__ = [
    "Allowed",
    "Bounds",
    "Connection",
    "Destination",
    "Proxy",
    "REGISTRIES",
    "Refused",
    "Unresolved",
    "check_hosts",
    "decide",
    "remotes_of",
]
