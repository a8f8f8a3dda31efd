"""What a peer says of a tool that it runs itself."""

from typing import Annotated, Any

from msgspec import Meta, Struct

from custody.rpc.rates import Rate


class ToolDefinition(Struct, frozen=True, kw_only=True):
    """A tool that the peer runs. A name suffices."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """JSON Schema (draft 2020-12) of its parameters; none: they are not checked."""
    returns: dict[str, Any] | None = None
    """Shown in `tools.list`; what comes back is not checked against it."""
    idempotent: bool | None = None
    """Whether each of its results may be given again for `cache_ttl_secs`; else only an action may say so."""
    cache_ttl_secs: Annotated[float, Meta(ge=0)] | None = None
    rate_limit: Rate | None = None

    @property
    def always_remembered(self) -> bool:
        """Whether a result may be given again though the action does not say that it is idempotent."""
        return bool(self.idempotent) and self.cache_ttl_secs is not None
