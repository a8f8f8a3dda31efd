"""A runtime over a URL: what `custody.open("ws://…")` gives.

The public names of the package; `runtime` says what it does. Used by `compose` and the command line.
"""

from custody.client.address import Address
from custody.client.blocking import BlockingRemoteRuntime
from custody.client.runtime import RemoteRuntime, Speaker

__all__ = ["Address", "BlockingRemoteRuntime", "RemoteRuntime", "Speaker"]
