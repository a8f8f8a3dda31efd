"""The methods by name, and what is generated from them: the schema of the wire, and what a caller may ask.

Owns no method; `table` has them. Used by `serve`, `server.schema`, `capabilities.list` and the reference.
"""

import hashlib
import types
import typing
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

import msgspec
from msgspec import Struct

from custody.rpc.access import ROLES, Access
from custody.rpc.method import Method

DIALECT = "https://json-schema.org/draft/2020-12/schema"


class Push(Struct, frozen=True):
    """What this side sends of its own accord."""

    name: str
    params: Any
    help: str
    answered: bool = False
    """Whether it is a request, to which the peer owes an answer."""


class Capability(Struct, frozen=True):
    """A method as `capabilities.list` names it."""

    method: str
    role: str
    """Who may ask it: `any`, or roles joined by commas."""


class Table:
    """Every method, by name."""

    def __init__(self, methods: Iterable[Method], pushes: Iterable[Push] = ()) -> None:
        self._methods: dict[str, Method] = {}
        for method in methods:
            assert method.name not in self._methods, f"two methods are named {method.name}"
            self._methods[method.name] = method
        self.pushes = tuple(pushes)
        self.get = self._methods.get

    def __iter__(self) -> Iterator[Method]:
        return (self._methods[name] for name in sorted(self._methods))

    def __len__(self) -> int:
        return len(self._methods)

    def open_to(self, access: Access) -> list[Capability]:
        """What somebody may ask, by name."""
        return [
            Capability(method.name, role_of(method))
            for method in self
            if method.before_auth
            or (access.role in method.roles and (access.methods is None or method.name in access.methods))
        ]

    @cached_property
    def schema(self) -> bytes:
        """JSON Schema of all params and results, as bytes that are the same for the same wire."""
        methods = list(self)
        kinds = [kind for method in methods for kind in (method.params, method.result)]
        kinds += [push.params for push in self.pushes]
        described, components = _described(kinds)
        document = {
            "$schema": DIALECT,
            "title": "Custody RPC",
            "methods": {
                method.name: {
                    "description": method.help,
                    "role": role_of(method),
                    "params": next(described),
                    "result": next(described),
                }
                for method in methods
            },
            "pushes": {
                push.name: {
                    "description": push.help,
                    "kind": "request" if push.answered else "notification",
                    "params": next(described),
                }
                for push in self.pushes
            },
            "$defs": components,
        }
        return msgspec.json.encode(document, order="deterministic")

    @cached_property
    def schema_digest(self) -> str:
        return hashlib.sha256(self.schema).hexdigest()


def _described(kinds: list[Any]) -> tuple[Iterator[dict[str, Any]], dict[str, Any]]:
    """The schema of each type in turn, and what they refer to."""
    alternatives = [_alternatives(kind) for kind in kinds]
    flat = [kind for several in alternatives for kind in several]
    shapes, components = msgspec.json.schema_components(flat, ref_template="#/$defs/{name}")
    rest = iter(shapes)
    joined = [[next(rest) for _ in several] for several in alternatives]
    return iter([shape[0] if len(shape) == 1 else {"anyOf": shape} for shape in joined]), components


def _alternatives(kind: Any) -> tuple[Any, ...]:
    """A result may be one of several structures, which msgspec describes only one by one."""
    return typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)


def role_of(method: Method) -> str:
    return "any" if set(method.roles) == set(ROLES) else ",".join(method.roles)
