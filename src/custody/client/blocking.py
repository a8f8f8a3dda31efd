"""The runtime of a daemon for programs that are not asynchronous: the same words without `await`.

Made by `compose`.
"""

from collections.abc import Callable, Mapping
from typing import Any, Self, Unpack

from custody.calls.beginning import RunOptions
from custody.client.run import BlockingRemoteRun
from custody.client.runtime import Remote
from custody.records import Call


class BlockingRemoteRuntime(Remote):
    """A runtime over a URL for `with`; see `BlockingRuntime`. May be used from several threads at once."""

    def open(self) -> Self:
        """Raises StoreUnusable where nobody answers, Denied where the token is refused."""
        try:
            self.link.wait(self.opening())
        except BaseException:
            self.link.end()
            raise
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(
        self,
        tool: str | Callable[..., Any],
        arguments: Mapping[str, Any] | None = None,
        *,
        run: Any = None,
        **options: Any,
    ) -> Call:
        """Make a call; options as in `RemoteRuntime.call`."""
        return self.link.wait(self.make(tool, arguments, self.asked(run=run, **options)))

    def run(
        self,
        intent: str | None = None,
        *,
        name: str | None = None,
        shared: bool = False,
        **options: Unpack[RunOptions],
    ) -> BlockingRemoteRun:
        """A new run for `with`; see `Runtime.run`."""
        return BlockingRemoteRun(*self.new_run(intent, name, shared, options))

    def join(self, run_id: str) -> BlockingRemoteRun:
        """Take part in a shared run; see `Runtime.join`."""
        run = BlockingRemoteRun(*self.joined(run_id))
        self.link.wait(run.part.begin())
        return run

    def named_run(
        self, name: str, intent: str | None = None, **options: Unpack[RunOptions]
    ) -> BlockingRemoteRun:
        """Join or begin the shared run of this name; see `Runtime.named_run`."""
        run = BlockingRemoteRun(*self.named(name, intent, options))
        self.link.wait(run.part.begin())
        return run

    def cancel(self, target: str) -> list[str]:
        """Ask a call or a run's calls to end; see `Runtime.cancel`."""
        return self.link.wait(self.cancelling(target))

    def close(self) -> None:
        """Tell what is queued, and end the connection. A second close does nothing."""
        if self.link.closed:
            return
        self.link.wait(self.closing())
        self.link.wait(self.link.closing())
        self.link.end()
