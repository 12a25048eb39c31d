"""The API described for programs (OpenAPI 3.1): made of the table of routes and the very types that are served."""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, get_args

import msgspec

from nightcrew.release import release
from nightcrew.web.problems import PROBLEM_TYPE, Problem
from nightcrew.web.routes import PARAMETERS, Route
from nightcrew.web.scopes import Scope

_REFERENCE = "#/components/schemas/{name}"

REFUSALS = {
    HTTPStatus.BAD_REQUEST: "It cannot be read.",
    HTTPStatus.UNAUTHORIZED: "Nobody is signed in, or not any more.",
    HTTPStatus.FORBIDDEN: "It takes another scope, or another site sent it.",
    HTTPStatus.NOT_FOUND: "There is no such thing, or it is not yours to see.",
    HTTPStatus.CONFLICT: "It cannot be done as things are.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "It is too large.",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "The body is of another kind.",
    HTTPStatus.UNPROCESSABLE_ENTITY: "What was sent does not fit.",
}
"""What any route may answer instead, each with a problem; further ones are under ``default``."""


def make_document(routes: Iterable[Route]) -> dict[str, Any]:
    """Make the OpenAPI document of the routes that are for programs."""
    described = [route for route in routes if not route.page]
    kinds = {kind for route in described for kind in (route.body, route.answer) if _is_named(kind)}
    # In one order: the document of one version is one text.
    _, components = msgspec.json.schema_components(
        [Problem, *sorted(kinds, key=lambda kind: str(kind.__name__))], ref_template=_REFERENCE
    )
    _add_notes(components, kinds)
    paths: dict[str, dict[str, Any]] = {}
    for route in described:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Nightcrew",
            "version": release() or "0",
            "description": "Background jobs: asked for, followed, answered. Refusals are problems (RFC 9457): `title` "
            "is what is wrong, `value` the value, `detail` what to do.",
        },
        "security": [{"token": []}, {"session": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "responses": _refusals(),
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "session": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": "nightcrew",
                    "description": "Set by a link that begins a session; its name has more to it.",
                },
            },
        },
    }


def _add_notes(components: dict[str, Any], kinds: Iterable[Any]) -> None:
    """Say of each field what is said of it in the code."""
    todo, seen = list(kinds), set()
    while todo:
        kind = todo.pop()
        if not isinstance(kind, type) or kind in seen:
            todo.extend(get_args(kind))
            continue
        seen.add(kind)
        if not issubclass(kind, msgspec.Struct):
            continue
        todo.extend(item.type for item in msgspec.structs.fields(kind))
        properties = components.get(kind.__name__, {}).get("properties", {})
        for name, note in field_notes(kind).items():
            if name in properties:
                # Beside a reference, a description is allowed from OpenAPI 3.1 on.
                properties[name]["description"] = note


def field_notes(kind: type[Any]) -> dict[str, str]:
    """What is said of the fields of a class in the lines below them; nothing where there is no source."""
    try:
        [made] = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    except (OSError, TypeError):
        return {}
    assert isinstance(made, ast.ClassDef)
    notes = {}
    for before, after in itertools.pairwise(made.body):
        if (
            isinstance(before, ast.AnnAssign)
            and isinstance(before.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            notes[before.target.id] = inspect.cleandoc(str(after.value.value))
    return notes


def _is_named(kind: Any) -> bool:
    return kind is not None and kind is not Any


def _operation(route: Route) -> dict[str, Any]:
    whose = " A token that may only enqueue sees what it enqueued itself." if route.own else ""
    public = route.scope is Scope.PUBLIC
    found: dict[str, Any] = {
        "summary": route.summary,
        "description": "For everybody." if public else f"Takes the scope `{route.scope}`.{whose}",
        "operationId": _operation_id(route),
        "parameters": [*_in_path(route), *_in_query(route), *_in_headers(route)],
        "responses": _responses(route),
    }
    if public:
        found["security"] = []
    if route.body is not None:
        content = {"application/json": {"schema": _reference(route.body)}}
        found["requestBody"] = {"content": content, "required": not route.optional_body}
    elif route.upload:
        found["requestBody"] = {"content": {"application/octet-stream": {}}, "required": True}
    return found


def _operation_id(route: Route) -> str:
    words = [word.strip("{}") for word in route.path.strip("/").split("/")]
    return "_".join([route.method.lower(), *words])


def _in_path(route: Route) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string", "pattern": f"^{PARAMETERS[name]}$"},
        }
        for name in route.parameters
    ]


def _in_query(route: Route) -> list[dict[str, Any]]:
    if route.query is None:
        return []
    notes = field_notes(route.query)
    found = []
    for item in msgspec.structs.fields(route.query):
        schema = msgspec.json.schema(item.type)
        parameter = {"name": item.name, "in": "query", "required": item.required, "schema": _alone(schema)}
        found.append(parameter | ({"description": notes[item.name]} if item.name in notes else {}))
    return found


def _alone(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema with nothing beside it, and without null, which an address has no word for."""
    beside = schema.pop("$defs", {})
    options = [part for part in schema.get("anyOf", [schema]) if part != {"type": "null"}]
    alone = [beside[part["$ref"].rpartition("/")[2]] if "$ref" in part else part for part in options]
    return alone[0] if len(alone) == 1 else {"anyOf": alone}


def _in_headers(route: Route) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "header", "required": False, "description": text, "schema": {"type": "string"}}
        for name, text in route.takes.items()
    ]


def _responses(route: Route) -> dict[str, Any]:
    content: dict[str, Any] = {route.content: {}}
    if _is_named(route.answer):
        content = {route.content: {"schema": _reference(route.answer)}}
    found: dict[str, Any] = {str(route.status.value): {"description": route.summary, "content": content}}
    for status, text in route.others.items():
        found.setdefault(str(status), {"description": text})
    for status in REFUSALS:
        found.setdefault(str(status.value), {"$ref": f"#/components/responses/{status.name}"})
    found["default"] = {"$ref": "#/components/responses/OTHER"}
    return found


def _refusals() -> dict[str, Any]:
    problem = {PROBLEM_TYPE: {"schema": _reference(Problem)}}
    named = {status.name: text for status, text in REFUSALS.items()}
    return {
        name: {"description": text, "content": problem}
        for name, text in {**named, "OTHER": "It was not done."}.items()
    }


def _reference(kind: Any) -> dict[str, str]:
    return {"$ref": _REFERENCE.format(name=kind.__name__)}
