"""The names that traces use are those of OpenTelemetry's conventions."""

from __future__ import annotations

import opentelemetry.semconv._incubating.attributes.messaging_attributes as messaging
import pytest
from opentelemetry.semconv.attributes import error_attributes
from opentelemetry.semconv.schemas import Schemas

from nightcrew import tracing


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (tracing.SYSTEM, messaging.MESSAGING_SYSTEM),
        (tracing.OPERATION_NAME, messaging.MESSAGING_OPERATION_NAME),
        (tracing.OPERATION_TYPE, messaging.MESSAGING_OPERATION_TYPE),
        (tracing.DESTINATION, messaging.MESSAGING_DESTINATION_NAME),
        (tracing.MESSAGE_ID, messaging.MESSAGING_MESSAGE_ID),
        (tracing.CONVERSATION_ID, messaging.MESSAGING_MESSAGE_CONVERSATION_ID),
        (tracing.BODY_SIZE, messaging.MESSAGING_MESSAGE_BODY_SIZE),
        (tracing.BATCH_COUNT, messaging.MESSAGING_BATCH_MESSAGE_COUNT),
        (tracing.CLIENT_ID, messaging.MESSAGING_CLIENT_ID),
        (tracing.ERROR_TYPE, error_attributes.ERROR_TYPE),
    ],
)
def test_a_name_is_that_of_the_conventions(ours: str, theirs: str) -> None:
    assert ours == theirs


def test_the_version_named_exists() -> None:
    assert tracing.SCHEMA in {schema.value for schema in Schemas}
