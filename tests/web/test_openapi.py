"""The API document is of what is served: asked for whatever it allows, the site answers as it says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode, checks
from schemathesis.core.result import Ok
from schemathesis.python import asgi

from nightcrew.web.openapi import field_notes, make_document
from nightcrew.web.requests import JobRequest
from tests.web.sites import Shop

EXAMPLES = 3
"""Requests for each operation."""
SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


@pytest.fixture
def shop(sqlite_url: str) -> Iterator[Shop]:
    shop = Shop(sqlite_url)
    with shop.app:
        yield shop
        # It keeps a thread, and the lifespan of the site, for the next test.
        asgi._shutdown()  # pyright: ignore[reportPrivateUsage]


def document(shop: Shop) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(make_document(shop.site.table)))
    return found


def test_the_document_names_every_route_for_programs(shop: Shop) -> None:
    found = document(shop)
    named = {(method.upper(), path) for path, methods in found["paths"].items() for method in methods}
    assert named == {(route.method, route.path) for route in shop.site.table if not route.page}
    ids = [operation["operationId"] for methods in found["paths"].values() for operation in methods.values()]
    assert len(ids) == len(set(ids))
    said = found["components"]["schemas"]["JobRequest"]["properties"]["run_after"]["description"]
    assert said == field_notes(JobRequest)["run_after"]
    assert said.startswith("Not before this")


def test_what_the_document_allows_is_answered_as_it_says(shop: Shop) -> None:
    """Statuses, content types and bodies are those of the document; nothing fails in the server."""
    headers = {"Authorization": f"Bearer {asyncio.run(shop.token('admin'))}", "Host": "127.0.0.1"}
    schema = schemathesis.openapi.from_asgi("/openapi.json", shop.site, headers=headers)
    wanted = [
        checks.CHECKS.get_one(name)
        for name in (
            "not_a_server_error",
            "status_code_conformance",
            "content_type_conformance",
            "response_schema_conformance",
        )
    ]
    asked = {GenerationMode.POSITIVE: 0, GenerationMode.NEGATIVE: 0}
    for found in schema.get_all_operations():
        assert isinstance(found, Ok), found
        operation = found.ok()
        if operation.path.endswith("/events"):
            continue  # these do not end
        # What is not allowed goes the same way wherever there is a body: one of them will do.
        for mode in GenerationMode if operation.label == "POST /api/jobs" else (GenerationMode.POSITIVE,):
            asked[mode] += ask(operation.as_strategy(generation_mode=mode), headers, wanted)
    assert asked[GenerationMode.POSITIVE] >= 100
    assert asked[GenerationMode.NEGATIVE] >= EXAMPLES


def ask(cases: Any, headers: dict[str, str], wanted: list[Any]) -> int:
    """Ask some of the cases, and check each answer; return how many."""
    asked = 0

    @given(case=cases)
    @settings(max_examples=EXAMPLES, suppress_health_check=SLOW, phases=[Phase.generate], database=None)
    def one(case: Any) -> None:
        nonlocal asked
        asked += 1
        case.call_and_validate(headers=headers, checks=wanted)

    one()
    return asked
