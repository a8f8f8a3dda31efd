"""`GET /openapi.json`: the HTTP side described, made from what answers it.

Owns how a type becomes the schema of what is shown of it: read models are shown as `records.document` spells
them, so their schema is made here, field by field, and not copied by hand. Used by `http` and the reference.
"""

import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

from custody import __version__
from custody.doors.server.events_stream import EventsQuery
from custody.doors.server.questions import QUESTIONS, Question

JSON = "application/json"
PRIMITIVES: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    bytes: {"type": "string"},
    type(None): {"type": "null"},
    Any: {},
}

REFUSALS = {
    400: "The request is wrong; the message names the parameter.",
    401: "A token is needed, or the one shown admits nobody.",
    403: "Not for this role, or not from that page.",
    404: "There is nothing of that id, or nothing of yours.",
    408: "The body did not come in time.",
    413: "The body is too large.",
    421: "The daemon is not called by that name.",
    429: "Too many requests.",
    500: "The journal is damaged, or something went wrong.",
    503: "Busy, about to stop, or the store cannot be used.",
}


@functools.cache
def openapi_document() -> dict[str, Any]:
    """OpenAPI 3.1."""
    schemas = Schemas()
    paths: dict[str, Any] = {}
    for question in QUESTIONS:
        paths[question.path] = {"get": _question(question, schemas)}
    for path, method, operation in _others():
        paths[path] = {method: operation}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Custody",
            "version": __version__,
            "description": "What agents did, as it is on the record. The same wire has JSON-RPC 2.0 over a "
            "WebSocket at `/`.",
        },
        "paths": paths,
        "components": {
            "schemas": {**schemas.made, "Error": _ERROR},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "hint"],
            "properties": {
                "code": {"type": "string"},
                "message": {"type": "string"},
                "hint": {"type": ["string", "null"]},
            },
        }
    },
}


def _question(question: Question, schemas: "Schemas") -> dict[str, Any]:
    statuses = [400, 401, 403, 404, 421, 429, 500, 503]
    parameters = _parameters(question.query)
    if "{id}" in question.path:
        identifier = {
            "type": "string",
            "description": "Hexadecimal, or its beginning where everything is seen.",
        }
        parameters.insert(0, {"name": "id", "in": "path", "required": True, "schema": identifier})
    return {
        "operationId": question.name,
        "summary": question.summary,
        "parameters": parameters,
        "responses": {
            "200": {
                "description": question.summary,
                "content": {JSON: {"schema": schemas.of(question.result)}},
            },
            **_refusals(statuses),
        },
    }


def _others() -> list[tuple[str, str, dict[str, Any]]]:
    """What is no question to the index."""
    status = {
        "type": "object",
        "required": ["status"],
        "properties": {"status": {"type": "string"}},
    }
    open_to_all: dict[str, Any] = {"security": []}
    return [
        ("/health", "get", _plain("health", "Whether it is alive.", JSON, status, [421]) | open_to_all),
        (
            "/ready",
            "get",
            _plain("ready", "Whether calls can be recorded now.", JSON, status, [421, 503]) | open_to_all,
        ),
        (
            "/openapi.json",
            "get",
            _plain("openapi", "This description.", JSON, {"type": "object"}, [421]) | open_to_all,
        ),
        (
            "/metrics",
            "get",
            _plain("metrics", "What is counted, for Prometheus.", "text/plain", {"type": "string"}, _USUAL),
        ),
        (
            "/events",
            "get",
            _plain(
                "events", "Records as they are written, as server-sent events.", "text/event-stream",
                {"type": "string"}, [400, *_USUAL],
            )
            | {"parameters": _parameters(EventsQuery)},
        ),
        ("/boundary", "post", _boundary()),
    ]  # fmt: skip


_USUAL = [401, 403, 421, 429, 503]


def _plain(name: str, summary: str, kind: str, schema: dict[str, Any], statuses: list[int]) -> dict[str, Any]:
    return {
        "operationId": name,
        "summary": summary,
        "responses": {
            "200": {"description": summary, "content": {kind: {"schema": schema}}},
            **_refusals(statuses),
        },
    }


def _boundary() -> dict[str, Any]:
    taken = {"type": "object", "required": ["sig"], "properties": {"sig": {"type": "string"}}}
    refused = {"type": "object", "required": ["error"]}
    notice = {
        "type": "object",
        "required": ["pid", "sig", "event"],
        "properties": {
            "pid": {"type": "integer", "minimum": 1, "maximum": 2**31 - 1},
            "sig": {"type": "string", "minLength": 1, "maxLength": 256},
            "event": {"enum": ["start", "end"]},
        },
    }
    answers = {
        str(status): {"description": words, "content": {JSON: {"schema": refused}}}
        for status, words in REFUSALS.items()
        if status in (400, 404, 408, 413, 503)
    }
    return {
        "operationId": "boundary",
        "summary": "A notice of another program that a call of its own starts or has ended.",
        "requestBody": {"required": True, "content": {JSON: {"schema": notice}}},
        "responses": {
            "200": {"description": "It is on the record.", "content": {JSON: {"schema": taken}}},
            **answers,
            **_refusals([401, 403, 421, 429]),
        },
    }


def _refusals(statuses: list[int]) -> dict[str, Any]:
    content = {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {str(status): {"description": REFUSALS[status], "content": content} for status in statuses}


WORDS = {
    "running": "`true`: those under way.",
    "outcome": "How it ended: `succeeded`, `failed`, …, or `running`.",
    "session": "Of this session.",
    "agent": "Of this agent; with a token that names none, who asks.",
    "caller": "On whose behalf.",
    "workspace": "The folder of a git working tree.",
    "parent": "What was started from this run or call.",
    "top_level": "Those that nothing started.",
    "text": "Words to find in what was said.",
    "external_id": "The id another system gave it: the key a run was started with.",
    "order": "By when they were asked for.",
    "name": "Of a run or an event.",
    "channel": "Where the run came from.",
    "reason": "Why it ended as it did.",
    "run": "Of this run: its id, the beginning of it, or a name.",
    "tool": "Of this tool.",
    "effect": "`read`, `write`, `irreversible`, `unknown`.",
    "door": "Through which it came: `server`, `cli`, `python`, …",
    "dry_run": "Those that were checked and not run, or the others.",
    "proposal_id": "Of this proposal.",
    "action_id": "Of this action of a proposal.",
    "attempt": "Which try of its action.",
    "connection": "Of this connection to the daemon.",
    "kind": "Of record.",
}
"""What a parameter says, where its type does not."""


def _parameters(query: type[Struct]) -> list[dict[str, Any]]:
    schema = msgspec.json.schema(query)
    body = next(iter(schema["$defs"].values()))
    found: list[dict[str, Any]] = []
    for name, of in body["properties"].items():
        of = dict(of)
        description = of.pop("description", None)
        of.pop("default", None)
        if "anyOf" in of:  # a query has no null
            (of,) = (dict(each) for each in of["anyOf"] if each.get("type") != "null")
            description = of.pop("description", description)
        if "enum" in of:
            of["enum"] = [value for value in of["enum"] if value is not None]
        words = WORDS[name] if description is None else description
        found.append({"name": name, "in": "query", "required": False, "schema": of, "description": words})
    return found


# -- schemas of what is shown ---------------------------------------------------------------------------


class Schemas:
    """The schemas of types, by name."""

    def __init__(self) -> None:
        self.made: dict[str, dict[str, Any]] = {}

    def of(self, kind: Any) -> dict[str, Any]:
        """A schema, or a reference to one that `made` has. Raises TypeError for a type that is not shown."""
        if kind in PRIMITIVES:
            return dict(PRIMITIVES[kind])
        origin, arguments = get_origin(kind), get_args(kind)
        maker = _MAKERS.get(origin)
        if maker is not None:
            return maker(self, arguments)
        shown = origin or kind
        if isinstance(shown, type) and issubclass(shown, Struct):
            return self._struct(kind, shown, arguments)
        raise TypeError(f"{kind!r} is shown nowhere")

    def _struct(self, kind: Any, struct: type[Struct], arguments: tuple[Any, ...]) -> dict[str, Any]:
        name = "".join([struct.__name__, *(getattr(each, "__name__", "Record") for each in arguments)])
        if name not in self.made:
            self.made[name] = {}  # a type may hold itself
            hints = typing.get_type_hints(struct, include_extras=True)
            parameters = getattr(struct, "__parameters__", ())
            bound = dict(zip(parameters, arguments, strict=False))
            config = struct.__struct_config__
            properties: dict[str, Any] = {}
            required: list[str] = []
            if config.tag_field is not None:
                properties[config.tag_field] = {"const": config.tag}
                required.append(config.tag_field)
            for field in msgspec.structs.fields(struct):
                spelled, of = _shown(field.name, _bound(hints[field.name], bound))
                may_be_unset = msgspec.UnsetType in get_args(of) or config.omit_defaults
                properties[spelled] = self.of(of)
                if not may_be_unset:
                    required.append(spelled)
            self.made[name] = {"type": "object", "properties": properties, "required": required}
            words = struct.__dict__.get("__doc__")
            if words:
                self.made[name]["description"] = inspect.cleandoc(words)
        del kind
        return {"$ref": f"#/components/schemas/{name}"}

    def _union(self, arguments: tuple[Any, ...]) -> dict[str, Any]:
        shown = [self.of(each) for each in arguments if each is not msgspec.UnsetType]
        if {} in shown:
            return {}
        return shown[0] if len(shown) == 1 else {"anyOf": shown}

    def _array(self, arguments: tuple[Any, ...]) -> dict[str, Any]:
        return {"type": "array", "items": self.of(arguments[0])}

    def _object(self, arguments: tuple[Any, ...]) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": self.of(arguments[1])}

    def _literal(self, arguments: tuple[Any, ...]) -> dict[str, Any]:
        return {"enum": list(arguments)}

    def _annotated(self, arguments: tuple[Any, ...]) -> dict[str, Any]:
        metas = [each for each in arguments[1:] if isinstance(each, Meta) and each.description]
        return self.of(arguments[0]) | ({"description": metas[0].description} if metas else {})


_MAKERS: Mapping[Any, Callable[[Schemas, tuple[Any, ...]], dict[str, Any]]] = {
    Union: Schemas._union,  # pyright: ignore[reportPrivateUsage]
    types.UnionType: Schemas._union,  # pyright: ignore[reportPrivateUsage]
    list: Schemas._array,  # pyright: ignore[reportPrivateUsage]
    tuple: Schemas._array,  # pyright: ignore[reportPrivateUsage]
    dict: Schemas._object,  # pyright: ignore[reportPrivateUsage]
    Literal: Schemas._literal,  # pyright: ignore[reportPrivateUsage]
    Annotated: Schemas._annotated,  # pyright: ignore[reportPrivateUsage]
}


def _shown(name: str, kind: Any) -> tuple[str, Any]:
    """As `records.document` shows a field: money in dollars."""
    return ("cost_usd", float | None) if name == "cost_nano_usd" else (name, kind)


def _bound(kind: Any, bound: Mapping[Any, Any]) -> Any:
    """A generic's field with what stands for its parameter."""
    if kind in bound:
        return bound[kind]
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is list and arguments and arguments[0] in bound:
        return list[bound[arguments[0]]]
    return kind
