"""Every operation of the API's own OpenAPI schema with made-up input: only coded errors, never a 500.

Bounded: a few dozen requests for each operation, always the same ones.
"""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]
BOUNDED = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
CODE = re.compile(r"^[a-z0-9]+(-[a-z0-9]+)*$")


def check_answer(case: Any, token: str) -> None:
    """Send one made-up request and look at the answer; where a program reads, with its token."""
    response = case.call(headers={"Authorization": f"Bearer {token}"} if case.method == "GET" else None)
    assert response.status_code < 500 or case.path == "/healthz", response.text
    case.validate_response(response, checks=CHECKS)
    if response.status_code >= 400 and case.path != "/healthz":
        answer = response.json()
        assert CODE.match(answer["code"])
        assert answer["message"]


def operations(url: str) -> Iterator[Any]:
    """All operations of a running API's schema."""
    for found in schemathesis.openapi.from_url(f"{url}/openapi.json").get_all_operations():
        yield found.ok()


def test_every_operation_answers_as_its_schema_says(api: Any, a_report: Any) -> None:
    api.post(a_report())
    seen = []

    def check(case: Any) -> None:
        check_answer(case, api.token)

    # schemathesis' own pytest plugin is not used: it reaches into internals of pytest that change.
    for operation in operations(api.url):
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
            # An operation without parameters has no wrong input.
            with contextlib.suppress(Unsatisfiable):
                BOUNDED(given(case=operation.as_strategy(generation_mode=mode))(check))()
                seen.append((operation.label, mode.value))
    assert ("POST /v1/reports", "positive") in seen
    assert ("POST /v1/reports", "negative") in seen
    assert len({label for label, _ in seen}) >= 11
