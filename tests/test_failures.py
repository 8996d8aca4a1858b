"""proxy/protocol/failures.py: one table from what went wrong to what the client is told."""

from __future__ import annotations

import json
from http import HTTPStatus

import msgspec
import openai
import pytest

from proxy.dialects.openai.errors import CODES, envelope
from proxy.protocol.failures import (
    BY_STATUS,
    BY_TYPE,
    BY_WORD,
    TABLE,
    About,
    Failure,
    Kind,
    Rejection,
    bad_request,
    by_status,
    of_result,
)
from proxy.protocol.lines import RateLimitInfo, Result


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_has_a_row_that_clients_understand(kind: Kind) -> None:
    row = TABLE[kind]
    HTTPStatus(row.status)
    assert CODES[kind].type
    # 409 is retried by clients as a lock; 200 would be no error at all.
    assert row.status >= 400
    assert row.status != 409


@pytest.mark.parametrize(
    ("kind", "status", "code", "retry"),
    [
        (Kind.BAD_REQUEST, 400, None, None),
        (Kind.PROMPT_TOO_LONG, 400, "context_length_exceeded", None),
        (Kind.NOT_LOGGED_IN, 401, "not_logged_in", False),
        (Kind.NO_KEY, 401, "invalid_api_key", None),
        (Kind.MODEL_NOT_FOUND, 404, "model_not_found", None),
        (Kind.PLAN_LIMIT, 429, "insufficient_quota", False),
        (Kind.RATE_LIMIT, 429, "rate_limit_exceeded", None),
        (Kind.OVERLOADED, 503, "overloaded", None),
        (Kind.QUEUE_FULL, 429, "queue_full", None),
        (Kind.CLI_DIED, 502, "cli_died", None),
        (Kind.UPSTREAM_CUT, 502, "upstream_cut", None),
        (Kind.SCHEMA_UNMET, 502, "schema_unmet", False),
        (Kind.CLI_SILENT, 504, "cli_silent", None),
        (Kind.INTERNAL, 500, "internal_error", None),
    ],
)
def test_the_rows_that_clients_act_on(kind: Kind, status: int, code: str | None, retry: bool | None) -> None:
    row = TABLE[kind]
    assert (row.status, CODES[kind].code, row.retry) == (status, code, retry)


def test_the_envelope_has_all_four_keys() -> None:
    failure = Failure(Kind.BAD_REQUEST, "No.", "messages[0].role")
    assert json.loads(msgspec.json.encode(envelope(failure))) == {
        "error": {"message": "No.", "type": "invalid_request_error", "param": "messages[0].role", "code": None}
    }


def test_a_rejection_says_why() -> None:
    rejection = bad_request("No.", "model")
    assert isinstance(rejection, Rejection)
    assert str(rejection) == "No."
    assert rejection.failure == Failure(Kind.BAD_REQUEST, "No.", "model")


@pytest.mark.parametrize(
    ("status", "kind"),
    [*BY_STATUS.items(), (None, Kind.UPSTREAM_CUT), (500, Kind.UPSTREAM_ERROR), (502, Kind.UPSTREAM_ERROR),
     (599, Kind.UPSTREAM_ERROR), (422, Kind.REFUSED_UPSTREAM), (418, Kind.REFUSED_UPSTREAM)],
)  # fmt: skip
def test_by_status(status: int | None, kind: Kind) -> None:
    assert by_status(status) is kind


def error(**more: object) -> Result:
    return msgspec.convert({"type": "result", "is_error": True, "result": "API Error: no", **more}, Result)


@pytest.mark.parametrize(("word", "kind"), sorted(BY_WORD.items()))
def test_words_of_the_cli_decide(word: str, kind: Kind) -> None:
    assert of_result(error(api_error=word, api_error_status=500), None, None).kind is kind
    assert of_result(error(terminal_reason=word, api_error_status=500), None, None).kind is kind
    assert of_result(error(), word, None).kind is kind


def test_the_status_is_stronger_than_the_word_on_the_line_before() -> None:
    assert of_result(error(api_error_status=529), "rate_limit", None).kind is Kind.OVERLOADED
    assert of_result(error(api_error_status=400), "billing_error", None).kind is Kind.PLAN_LIMIT
    assert of_result(error(api_error_status=400), "invalid_request", None).kind is Kind.REFUSED_UPSTREAM


@pytest.mark.parametrize(("type", "kind"), BY_TYPE.items())
def test_an_error_event_in_a_stream_has_a_type_and_no_status(type: str, kind: Kind) -> None:
    # As 2.1.330 wrote it for `event: error` in mid-answer.
    line = error(api_error_type=type, terminal_reason="api_error")
    assert of_result(line, "unknown", None).kind is kind
    assert of_result(error(api_error_type=type, api_error_status=500), "unknown", None).kind is Kind.UPSTREAM_ERROR


@pytest.mark.parametrize(
    "text", ["API Error: 429 rate limit", "401 please log in", "Overloaded 529", "prompt is too long"]
)
def test_text_never_decides(text: str) -> None:
    assert of_result(error(result=text), None, None).kind is Kind.UPSTREAM_ERROR


def test_a_plan_limit_says_when_it_ends() -> None:
    limits = RateLimitInfo("rejected", resetsAt=1_795_500_000)
    failure = of_result(error(api_error="usage_limit_reached"), "rate_limit", limits)
    assert (failure.kind, failure.resets_at) == (Kind.PLAN_LIMIT, 1_795_500_000)
    assert of_result(error(api_error="usage_limit_reached"), None, None).resets_at is None
    assert of_result(error(api_error_status=529), None, limits).resets_at is None


def test_a_lost_login_says_what_to_run() -> None:
    failure = of_result(error(api_error_status=401, result="Invalid bearer token"), "authentication_failed", None)
    assert failure.kind is Kind.NOT_LOGGED_IN
    assert "claude auth login" in failure.message
    assert "Invalid bearer token" in failure.message


def test_an_unknown_model_names_the_parameter() -> None:
    assert of_result(error(api_error_status=404), None, None).about is About.MODEL
    assert of_result(error(api_error_status=400), None, None).about is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"result": "said"}, "said"),
        ({"result": "", "errors": ["one", "two"]}, "one; two"),
        ({"result": ""}, "The CLI reported an error without words."),
    ],
)
def test_the_message_is_what_the_cli_said(fields: dict[str, object], message: str) -> None:
    assert of_result(error(**fields), None, None).message == message


def test_statuses_become_the_exceptions_of_the_openai_client() -> None:
    client = openai.OpenAI(api_key="x", base_url="http://127.0.0.1:1")
    import httpx2  # what the openai client uses

    expected = {
        Kind.BAD_REQUEST: openai.BadRequestError,
        Kind.NOT_LOGGED_IN: openai.AuthenticationError,
        Kind.NO_PERMISSION: openai.PermissionDeniedError,
        Kind.MODEL_NOT_FOUND: openai.NotFoundError,
        Kind.PLAN_LIMIT: openai.RateLimitError,
        Kind.OVERLOADED: openai.InternalServerError,
        Kind.CLI_DIED: openai.InternalServerError,
    }
    for kind, exception in expected.items():
        body = json.loads(msgspec.json.encode(envelope(Failure(kind, "Why."))))
        response = httpx2.Response(TABLE[kind].status, request=httpx2.Request("POST", "http://x"), json=body)
        made = client._make_status_error_from_response(response)
        assert type(made) is exception
        assert made.code == CODES[kind].code
        assert "Why." in str(made)


def test_a_prompt_that_the_cli_itself_finds_too_long_is_the_clients_fault() -> None:
    # What 2.1.330 wrote for a user text of 4 MB, without a request to the Messages API.
    line = Result(
        subtype="success", is_error=True, result="Prompt is too long", num_turns=1, terminal_reason="blocking_limit"
    )
    failure = of_result(line, "invalid_request", None)
    assert failure.kind is Kind.PROMPT_TOO_LONG
    assert failure.row.status == 400
    assert CODES[failure.kind].code == "context_length_exceeded"
