"""Whatever fits the OpenAPI document, and whatever does not, is answered as the document says, and never with a 5xx."""

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import (
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
)

from t5kit.testing.server_process import ServerProcess

EXAMPLES = 6
"""For each operation and mode; by hand, T5KIT_HYPOTHESIS=search takes a thousand."""


@pytest.mark.parametrize("mode", [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE])
@pytest.mark.parametrize(
    "route",
    [
        "/v1/generate",
        "/v1/trace",
        "/v1/score",
        "/v1/classify",
        "/v1/rank",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/models",
    ],
)
def test_no_request_breaks_the_server(server: ServerProcess, route: str, mode: schemathesis.GenerationMode) -> None:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operation = schema[route]["GET" if route == "/v1/models" else "POST"]
    if route == "/v1/models" and mode is schemathesis.GenerationMode.NEGATIVE:
        pytest.skip("nothing of this request can be wrong")
    searches = hypothesis.settings.get_current_profile_name() == "search"

    @hypothesis.settings(
        max_examples=1000 if searches else EXAMPLES,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def answered(case: schemathesis.Case) -> None:
        if isinstance(case.body, dict):
            case.body.pop("timeout_s", None)  # a deadline that a client asks for is a 504 by right
        response = case.call(timeout=30)
        case.validate_response(
            response, checks=[not_a_server_error, status_code_conformance, response_schema_conformance]
        )

    answered()
