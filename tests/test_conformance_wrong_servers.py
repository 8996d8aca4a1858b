"""The tester is tested: servers that are wrong on purpose fail the cases that they should, and no others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from msgspec.structs import replace

from conformance.results import Result
from tests.relay import CASES, Answer, Wrong, baseline, judged, with_events, with_json

# Cases among those of streams that look at failures or headers alone, and cases elsewhere that read good streams.
NO_GOOD_STREAM = {
    "streaming/an_early_failure_is_a_status",
    "streaming/nothing_between_may_hold_it_back",
    "streaming/stream_options_without_stream_are_harmless",
}
STREAMED_ELSEWHERE = {
    "completions/a_continuation_is_streamed",
    "parameters/thinking_is_reasoning_content",
    "responses/a_stream_that_breaks_says_how",
    "responses/answers_in_the_background",
    "responses/streams_named_events",
    "responses/the_python_client_reads_it",
    "structured/json_is_streamed_as_content",
    "structured/words_instead_of_json_are_a_refusal",
    "tools/a_call_is_streamed_in_pieces",
    "tools/a_custom_tool_gets_text",
    "tools/the_client_folds_parallel_calls",
    "tools/the_loop_closes_streamed",
}


def passing(results: Mapping[str, Result]) -> set[str]:
    return {id for id, result in results.items() if result.outcome == "pass"}


def failing(results: Mapping[str, Result]) -> set[str]:
    return {id for id, result in results.items() if result.outcome in ("fail", "error")}


def told(results: Mapping[str, Result]) -> str:
    """What came of each case, and why, for the message of a test that fails."""
    return "\n".join(f"{result.outcome} {id}: {result.why}" for id, result in results.items())


def test_the_right_server_fails_nothing() -> None:
    found = {id: result for id, result in baseline().results.items() if result.outcome in ("fail", "error")}
    assert found == {}, told(found)


def spoilt(value: Any) -> Any:
    """The same with every name misspelt."""
    if isinstance(value, dict):
        return {f"{name}s": spoilt(inner) for name, inner in value.items()}
    return [spoilt(inner) for inner in value] if isinstance(value, list) else value


def wrong_everywhere(answer: Answer) -> Answer:
    """Every JSON has other names, every page and text is another, and no header says anything."""
    bare = {name: value for name, value in answer.headers.items() if name == "content-type"}
    answer = replace(answer, headers=bare)
    if answer.events is not None:
        return with_events(answer, [spoilt(event) for event in answer.events])
    if answer.json is not None:
        return with_json(answer, spoilt(answer.json))
    return replace(answer, body=b"<script>1 1 1</script>")


def test_a_server_that_is_wrong_on_every_answer_passes_nothing() -> None:
    assert passing(judged(CASES, wrong_everywhere)) == set()


def test_a_server_that_never_ends_passes_nothing_and_the_suite_ends() -> None:
    modules = {case.id.partition("/")[0]: case for case in CASES}
    results = judged(list(modules.values()), lambda answer: replace(answer, ends=False), timeout=0.4)
    assert {result.outcome for result in results.values()} == {"error"}


def endless_and_doubled(answer: Answer) -> Answer:
    """Streams without finish_reason and [DONE], with role, ids and names in every piece."""
    if answer.events is None:
        return answer
    events = []
    heads: dict[int, Any] = {}
    for event in answer.events[:-1]:
        for choice in event.get("choices", ()):
            choice["finish_reason"] = None
            if "delta" in choice:
                choice["delta"]["role"] = "assistant"
            for piece in choice.get("delta", {}).get("tool_calls", ()):
                heads.setdefault(piece["index"], piece)
                piece |= {"id": heads[piece["index"]]["id"]}
        events.append(event)
    return with_events(answer, events)


def test_a_server_whose_streams_have_no_end_fails_the_cases_of_streams_alone() -> None:
    results = judged(CASES, endless_and_doubled)
    assert (
        failing(results)
        == {case.id for case in CASES if case.id.startswith("streaming/") and case.id not in NO_GOOD_STREAM}
        | STREAMED_ELSEWHERE
    )


def in_events(change: Callable[[dict[str, Any]], object]) -> Wrong:
    """A server that changes every chunk of its streams like this."""

    def wrong(answer: Answer) -> Answer:
        if answer.events is None:
            return answer
        events = answer.events
        for event in events:
            if isinstance(event, dict) and "choices" in event:
                change(event)
        return with_events(answer, events)

    return wrong


def in_bodies(change: Callable[[dict[str, Any]], object]) -> Wrong:
    """A server that changes every JSON object that it answers like this."""

    def wrong(answer: Answer) -> Answer:
        body = answer.json
        if not isinstance(body, dict):
            return answer
        change(body)
        return with_json(answer, body)

    return wrong


def in_choices(change: Callable[[dict[str, Any]], object]) -> Wrong:
    return in_bodies(lambda body: [change(choice) for choice in body.get("choices", ())])


def in_headers(**headers: str) -> Wrong:
    added = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda answer: replace(answer, headers=answer.headers | added)


# What a server does wrong, and a case that is there to find it.
WRONGS: dict[str, tuple[Wrong, str]] = {
    "the role again in every chunk": (
        in_events(lambda event: [choice["delta"].update(role="assistant") for choice in event["choices"]]),
        "streaming/the_first_chunk_opens_the_message",
    ),
    "an id of its own for every chunk": (
        in_events(lambda event: event.update(id=f"chatcmpl-{id(event)}")), "streaming/a_stream_keeps_the_laws",
    ),
    "usage in every chunk": (
        in_events(lambda event: event.update(usage={"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2})),
        "streaming/usage_does_not_come_unasked",
    ),
    "event names": (
        lambda answer: replace(answer, body=answer.body.replace(b"data: {", b"event: x\ndata: {")),
        "streaming/only_data_and_comments",
    ),
    "finish_reason stop with calls": (
        in_choices(lambda choice: choice.update(finish_reason="stop")), "tools/a_call_is_complete",
    ),
    "arguments as an object": (
        in_choices(lambda choice: [
            call["function"].update(arguments={}) for call in choice["message"].get("tool_calls", ())
        ]),
        "tools/a_call_is_complete",
    ),
    "one id for two calls": (
        in_choices(lambda choice: [call.update(id="call_1") for call in choice["message"].get("tool_calls", ())]),
        "tools/parallel_calls_are_kept_apart",
    ),
    "a field that is no one's": (in_bodies(lambda body: body.update(frob=1)), "chat/answers_with_a_completion"),
    "usage that does not add up": (
        in_bodies(lambda body: body.get("usage", {}).update(total_tokens=1)), "chat/usage_adds_up",
    ),
    "a stop sequence that leaks": (
        in_choices(lambda choice: choice["message"].update(content="The capital")), "chat/stop_cuts_exactly",
    ),
    "prose where JSON was asked for": (
        in_choices(lambda choice: choice["message"].update(content="Here you go: {}")),
        "structured/json_fits_the_schema",
    ),
    "errors as good answers": (lambda answer: replace(answer, status=200), "errors/raises_overloaded"),
    "errors in another shape": (
        in_bodies(lambda body: body.update(error="It failed.") if "error" in body else None),
        "errors/an_unknown_path_is_not_found",
    ),
    "one request id for all": (in_headers(x_request_id="req_1"), "headers/every_answer_has_an_id"),
    "open to every web page": (in_headers(access_control_allow_origin="*"), "headers/no_web_page_may_ask"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONGS)
def test_what_is_wrong_is_found(wrong: str) -> None:
    server, case = WRONGS[wrong]
    results = judged([each for each in CASES if each.id == case], server)
    assert failing(results) == {case}, told(results)
