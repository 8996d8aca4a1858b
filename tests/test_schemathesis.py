"""Schemathesis: requests made from `/openapi.json`, and requests made to break it, in-process and over a socket.

Selected by CI alone (`pytest -m ci`): making the cases takes a third of the time in which all tests are collected.

No 500; no status, header or body that the document does not know; no nonsense accepted; and nothing refused that the
document allows, but for what no schema can say: `BEYOND`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import one_of
from schemathesis import CheckContext, GenerationMode, HookContext, Response
from schemathesis.config import SchemathesisConfig
from schemathesis.core.failures import Failure
from schemathesis.core.result import Ok
from schemathesis.schemas import BaseSchema

from conformance.replay import Server
from proxy.http.routes import ROUTES
from tests import fake_cli
from tests.instant import application

pytestmark = pytest.mark.ci
Case = schemathesis.Case[Any]

KEY = {"Authorization": "Bearer sk-schemathesis"}

# What a valid body is refused for all the same: parameter and words of the refusal, and why a schema cannot say it.
BEYOND = (
    ("messages", r"\[\d+\](.content)?", "message .*with content|last message has no content", "the last one's role"),
    (
        "messages",
        r"\[\d+\](.content\[\d+\])*.(name|tool_call_id|tool_use_id)",
        "No call of the assistant message before|of the previous assistant message has this id",
        "calls and their results",
    ),
    ("messages", r"\[\d+\](.content\[\d+\])+.(image_url.url|input_audio)", "needs a URL|no audio", "refused by name"),
    ("tools", r"\[\d+\](.custom)?.format", "needs a `definition`", "one of two"),
    ("tools", r"\[\d+\].(type|function|custom)", "A tool |Tools of type", "one of several, beside a reference"),
    ("messages", r"\[\d+\](.content\[\d+\])+(.file)?(.file_id)?", "file_data", "one of two, beside a reference"),
    (
        "messages",
        r"\[\d+\].tool_calls\[\d+\](.id)?",
        "needs `function`|Two calls have the id",
        "one of two; uniqueness",
    ),
    ("messages", r"\[\d+\](.content\[\d+\])+(.file)?.file_data", "Files can be|is empty", "what base64 text holds"),
    ("previous_response_id|conversation", "", "is stored here|Only one of", "what is stored"),
    ("background", "", "only where it is stored", "two fields"),
    ("tools", r"\[\d+\][\w.]*", "must be a JSON Schema", "what a JSON Schema is"),
    ("tool_choice|function_call", r"[\w.\[\]]*", "No tool has the name|no tools to call", "names of another field"),
    ("tool_choice", r"[\w.\[\]]+", "is needed", "one of two forms"),
    ("tools|functions", r"\[\d+\][\w.]*", "Two tools have the name|in one way only", "uniqueness"),
    ("prompt|input", "", "prompt must not be empty|no input with content", "blank text"),
    ("messages", r"\[\d+\](.content\[\d+\])+.source.data", "Files can be|is empty", "what base64 text holds"),
    ("messages", r"\[\d+\](.content\[\d+\])+.source.file_id", "no stored files", "refused by name"),
    ("messages", r"\[\d+\](.content\[\d+\])+.type", "error can only have text", "two fields of one block"),
    ("input|items", r"\[\d+\].content\[\d+\].file_data", "Files can be|is empty", "what base64 text holds"),
    ("messages|images", ".*", "Images can be|not valid base64|can have images", "what base64 text holds"),
    ("messages", r"\[\d+\].(tool_name|tool_call_id)", "that this result names", "calls and their results"),
    ("suffix|template|context|raw", "", "Claude|mean nothing here|does not support", "what Ollama has beyond Claude"),
    ("prompt", "", "no visible text", "blank text"),
    ("model", "", "must be named", "one of two names"),
    ("before_id|after_id", "", "Only one of|No model of the list", "one of two; which models there are"),
    ("until", "", "until must be later than since", "the order of two values"),
    ("prompt|best_of", "", "At most 8 choices|Answers beyond", "the product or order of two numbers"),
)


# What these name may not be there.
UNKNOWN = ("/api/show", *(route.path for route in ROUTES if route.parameters))


def config(phases: tuple[str, ...]) -> SchemathesisConfig:
    """Deterministic; `phases` are those that run."""
    every = ("examples", "coverage", "fuzzing", "stateful")
    return SchemathesisConfig.from_dict(
        {
            "generation": {"deterministic": True, "mode": "all"},
            "phases": {phase: {"enabled": phase in phases} for phase in every},
            # Replaced by the check below, which knows what is beyond a schema.
            "checks": {"positive_data_acceptance": {"enabled": False}},
        }
    )


def bounded(examples: int) -> settings:
    return settings(
        max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )


def whole(value: Any) -> Any:
    """The value with numbers such as 84.0 as integers: to a JSON Schema they are the same, to the wire they are not."""
    if isinstance(value, dict):
        return {key: whole(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [whole(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


@schemathesis.hook
def map_body(context: HookContext, body: Any) -> Any:
    return whole(body)


@schemathesis.hook
def map_query(context: HookContext, query: Any) -> Any:
    return whole(query)


@schemathesis.check
def valid_data_is_accepted(ctx: CheckContext, response: Response, case: Case) -> None:
    """Valid data get an answer, or a refusal for what is beyond the schema; any model name may be unknown.

    The answer to HEAD has no words; GET's has.
    """
    if case.meta is None or not case.meta.generation.mode.is_positive or case.method == "HEAD":
        return
    if response.status_code == 200 or (response.status_code == 404 and case.operation.path in UNKNOWN):
        return
    error = response.json()["error"]
    if isinstance(error, str):
        # Ollama's errors are a sentence, which begins with the parameter.
        error = dict(zip(("param", "message"), error.split(": ", 1), strict=True))
    elif "param" not in error:
        # Those of Anthropic's API, too, where a parameter is at fault.
        param, _, rest = error["message"].partition(": ")
        param = re.sub(r"\.(\d+)", r"[\1]", param)
        error = {"param": param if rest else "", "message": rest or param}
    for name, rest, words, _ in BEYOND:
        if re.fullmatch(f"({name}){rest}", error["param"] or "") and re.search(words, error["message"]):
            return
    raise Failure(operation=case.operation.label, title="Valid data refused", message=f"{response.status_code} {error}")


in_process = schemathesis.openapi.from_asgi(
    "/openapi.json", application(hosts=("testserver",)), config=config(("examples", "coverage", "fuzzing"))
)


@in_process.parametrize()
@bounded(40)
def test_in_process(case: Case) -> None:
    case.call_and_validate()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaseSchema]:
    """The document of a server on a socket that wants a key, and has a CLI that repeats what it is told."""
    cli = fake_cli.write(tmp_path_factory.mktemp("cli"))
    with Server(cli, {"API_KEYS": KEY["Authorization"].split()[1]}) as server:
        yield schemathesis.openapi.from_url(f"{server.url}/openapi.json", headers=KEY, config=config(("fuzzing",)))


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_over_a_socket(served: BaseSchema, mode: GenerationMode) -> None:
    operations = [result.ok() for result in served.get_all_operations() if isinstance(result, Ok)]

    @given(case=one_of([operation.as_strategy(generation_mode=mode) for operation in operations if operation.body]))
    @bounded(40)
    def asked(case: Case) -> None:
        case.call_and_validate(headers=KEY)

    asked()
