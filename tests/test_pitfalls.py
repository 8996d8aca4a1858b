"""The bugs that proxies of this kind have shipped, and the tests that keep each of them out.

Some are tested here; for the rest this is the index, and a test that is renamed or removed fails it.
"""

from __future__ import annotations

import ast
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests import cli_lines as say
from tests import fake_cli
from tests.conftest import Serve, chat

HERE = Path(__file__).parent
COMPLETIONS = "/v1/chat/completions"

PITFALLS: dict[int, tuple[str, tuple[str, ...]]] = {
    1: (
        "An error of the CLI handed out as the answer.",
        (
            "test_turn.test_an_error_result_that_calls_itself_a_success_is_an_error",
            "test_turn.test_the_clis_own_words_are_never_content",
            "test_laws.test_law_6_no_error_is_ever_content",
            "test_errors.test_what_fails_before_the_first_delta_is_a_status",
        ),
    ),
    2: (
        "The child dies in mid-stream and the stream ends as if complete.",
        (
            "test_edge.test_a_failure_in_mid_stream_is_an_error_event_and_no_done",
            "test_conversation.test_one_that_dies_in_mid_answer",
            "test_laws.test_law_2_every_prefix_ends_once",
        ),
    ),
    3: (
        "Usage limit, login failure and overload all as 500, or as a hang; an invented Retry-After; text that decides.",
        (
            "test_failures.test_the_rows_that_clients_act_on",
            "test_failures.test_text_never_decides",
            "test_errors.test_a_plan_limit_says_when_to_come_back",
            "test_attempts.test_long_retries_are_told_to_the_client",
            "test_real_cli.test_errors_of_upstream_are_the_right_exceptions",
        ),
    ),
    4: (
        "Retried and continued upstream messages glued together.",
        (
            "test_attempts.test_two_attempts_are_never_glued",
            "test_turn.test_the_first_stop_reason_ends_the_answer",
            "test_real_cli.test_a_cut_in_mid_answer_is_an_error_in_the_stream",
        ),
    ),
    5: (
        "The turn ended at the first call; a block index as tool index; arguments held back.",
        (
            "test_turn.test_the_first_call_does_not_end_the_turn",
            "test_turn.test_parallel_calls_have_indexes_of_their_own",
            "test_turn.test_arguments_come_piece_by_piece",
        ),
    ),
    6: (
        "Tools dropped with a 200; tools of an earlier request left in a pooled process.",
        (
            "test_pitfalls.test_6_the_tools_of_a_request_reach_the_cli_and_no_other_request",
            "test_warm_pool.test_a_child_serves_one_conversation",
        ),
    ),
    7: (
        "Only the last message sent, or the history flattened into one text.",
        (
            "test_request.test_ten_turns_stay_ten_turns_in_order",
            "test_conversation.test_what_is_sent_and_in_which_order",
            "test_real_cli.test_ten_turns_arrive_as_ten_turns_in_order",
        ),
    ),
    8: (
        "The user's text expanded by the CLI.",
        (
            "test_commands.test_every_user_message_is_verbatim",
            "test_real_cli.test_text_arrives_as_text",
            "test_real_cli.test_nothing_of_a_client_becomes_a_line_of_its_own",
        ),
    ),
    9: (
        "Prompts, system prompts or tools on the command line.",
        (
            "test_serve.test_the_child_gets_a_private_empty_directory_and_no_text_on_its_command_line",
            "test_real_cli.test_no_text_of_the_user_is_on_a_command_line",
        ),
    ),
    10: (
        "The client goes away and the child lives on; orphans of a killed server.",
        (
            "test_edge.test_one_that_leaves_before_the_first_byte_ends_its_child",
            "test_edge.test_one_that_leaves_in_mid_stream_ends_its_child",
            "test_edge.test_one_that_leaves_a_whole_call_in_mid_answer_ends_its_child",
            "test_process.test_one_that_does_not_listen_is_killed",
            "test_reaper.test_a_server_killed_with_sigkill_leaves_nothing",
            "test_real_cli.test_no_process_is_left_when_the_server_ends",
        ),
    ),
    11: (
        "A slot freed when the response object is made, or leaked on a time-out.",
        (
            "test_edge.test_the_slot_is_held_until_the_stream_has_ended",
            "test_pool.test_a_slot_given_at_the_moment_of_the_timeout_is_not_lost",
            "test_pool.test_after_a_storm_everything_is_as_before",
        ),
    ),
    12: (
        "A character or line split between reads; no last newline; long lines; bugs that read as bad JSON.",
        (
            "test_lines.test_any_cut_gives_the_same_lines",
            "test_lines.test_the_last_line_needs_no_newline",
            "test_lines.test_a_line_of_six_megabytes",
            "test_process.test_characters_and_lines_cut_anywhere",
        ),
    ),
    13: (
        "developer or tool roles, unknown fields, null content, arrays of parts refused or garbled.",
        (
            "test_request.test_system_prompts",
            "test_request.test_content_as_text_and_as_parts_is_kept_as_it_is",
            "test_request.test_what_clients_send_without_meaning_it",
            "test_request.test_an_assistants_message_echoed_back_whole",
        ),
    ),
    14: (
        "Text of the model rewritten; sentences invented when there is no answer.",
        (
            "test_pitfalls.test_14_text_of_the_model_is_handed_on_as_it_is",
            "test_turn.test_whitespace_is_kept",
            "test_turn.test_an_empty_answer_is_an_answer",
        ),
    ),
    15: (
        "Usage without cached tokens, zeros or estimates; the wrong model.",
        (
            "test_turn.test_prompt_tokens_are_all_input",
            "test_chat.test_usage_counts_all_input_and_has_both_details",
            "test_pitfalls.test_15_the_model_is_the_one_that_wrote_the_message",
        ),
    ),
    16: (
        "Open CORS, text/plain as JSON, DNS rebinding, no key beyond loopback, keys compared with ==.",
        (
            "test_access.test_pages_of_other_origins_may_not_call",
            "test_access.test_nothing_else_is",
            "test_access.test_other_names_are_not",
            "test_access.test_every_key_is_compared_whatever_is_given",
            "test_settings.test_beyond_loopback_needs_a_key",
        ),
    ),
    17: (
        "Variables of an outer session, billed keys or the proxy's own keys in the child's environment.",
        (
            "test_launch.test_the_environment_is_built_from_nothing",
            "test_launch.test_each_login_gets_its_own_secrets_and_no_others",
            "test_real_cli.test_the_child_knows_no_secrets_and_no_outer_session",
        ),
    ),
    18: (
        "Permissions skipped, built-in tools left on.",
        ("test_launch.test_no_built_in_tools_no_files_of_the_host_no_session_left_behind",),
    ),
    19: (
        "A health check that does not look.",
        (
            "test_health.test_a_server_that_has_not_been_used_claims_nothing",
            "test_health.test_a_login_that_failed_shows_until_one_works",
        ),
    ),
    20: (
        "created = now on every call; ids that differ between chunks; two [DONE].",
        (
            "test_models_http.test_created_is_long_ago_and_never_changes",
            "test_laws.test_law_4_one_identity_one_role_one_end",
            "test_pitfalls.test_20_a_stream_is_done_once_and_nothing_follows",
        ),
    ),
    21: (
        "Fixtures that no CLI ever wrote; documentation that drifted; tests that assert nothing.",
        (
            "test_fixtures_lint.test_the_fixtures_are_clean",
            "test_readme.test_the_table_is_that_of_the_settings",
            "test_shape.test_every_test_can_fail",
        ),
    ),
    22: (
        "Schema mode trusted without looking for the structured output.",
        ("test_pitfalls.test_22_words_instead_of_the_structured_answer_are_no_answer",),
    ),
}


@cache
def names_in(module: str) -> frozenset[str]:
    tree = ast.parse((HERE / f"{module}.py").read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_all_are_here() -> None:
    assert list(PITFALLS) == list(range(1, 23))


@pytest.mark.parametrize("number", PITFALLS)
def test_each_is_kept_out_by_tests_that_exist(number: int) -> None:
    for pointer in PITFALLS[number][1]:
        module, _, name = pointer.partition(".")
        assert name.startswith("test_")
        assert name in names_in(module), pointer


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}


async def test_6_the_tools_of_a_request_reach_the_cli_and_no_other_request(local: Serve) -> None:
    server = await local(waiting=1)
    async with server.client() as client:
        for tools in ([tool("first")], [tool("second")], []):
            assert (await client.post(COMPLETIONS, json=chat(tools=tools))).status_code == 200
    offered = []
    for sent in fake_cli.told(server.directory):
        for line in sent:
            request = line.get("request", {})
            if request.get("subtype") == "initialize":
                manifests = request.get("sdkMcpServerManifests", {})
                offered.append([each["name"] for of in manifests.values() for each in of["toolsListResult"]["tools"]])
    assert sorted(offered) == [[], ["first"], ["second"]]


@pytest.mark.parametrize(
    "text",
    ["a\n\n\n\nb", "<thinking>x</thinking><tool_call>", "| a | b |\n|---|---|\n| 1 | 2 |", "  ", "```\ncode\n```",
     "\x00\u200b"],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
async def test_14_text_of_the_model_is_handed_on_as_it_is(local: Serve, text: str, stream: bool) -> None:
    server = await local()
    async with server.client() as client:
        answer = await client.post(COMPLETIONS, json=chat([["say", text], ["end"]], stream=stream))
    if not stream:
        assert answer.json()["choices"][0]["message"]["content"] == text
        return
    chunks = [json.loads(line[6:]) for line in answer.text.split("\n\n") if line.startswith("data: {")]
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == text


async def test_15_the_model_is_the_one_that_wrote_the_message(local: Serve) -> None:
    usage = {"claude-haiku-5-5": {"inputTokens": 900}, "claude-opus-5-5": {"inputTokens": 10}}
    lines = [*say.message("x", model="claude-opus-5-5"), say.result(modelUsage=usage)]
    server = await local()
    async with server.client() as client:
        answer = (await client.post(COMPLETIONS, json=chat([["line", line] for line in lines]))).json()
    assert answer["model"] == "claude-opus-5-5"
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["prompt_tokens_details"]["cached_tokens"]) == (22, 7)


async def test_20_a_stream_is_done_once_and_nothing_follows(local: Serve) -> None:
    server = await local()
    steps = [["say", "x"], ["end"], ["line", say.result()], ["say", "late"], ["end"]]
    async with server.client() as client:
        text = (await client.post(COMPLETIONS, json=chat(steps, stream=True))).text
    assert text.count("[DONE]") == 1
    assert text.endswith("data: [DONE]\n\n")
    assert "late" not in text


@pytest.mark.parametrize("stream", [False, True])
async def test_22_words_instead_of_the_structured_answer_are_no_answer(local: Serve, stream: bool) -> None:
    """The CLI may report success without any structured output; JSON in prose is not the answer either."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    form = {"type": "json_schema", "json_schema": {"name": "form", "schema": schema}}
    lines = [*say.message('Sure! {"a":1} or {"a":2}'), say.result()]
    server = await local()
    async with server.client() as client:
        answer = await client.post(
            COMPLETIONS, json=chat([["line", line] for line in lines], response_format=form, stream=stream)
        )
    if stream:
        chunks = [json.loads(line[6:]) for line in answer.text.split("\n\n") if line.startswith("data: {")]
        assert not any(choice["delta"].get("content") for chunk in chunks for choice in chunk.get("choices", []))
    else:
        message = answer.json()["choices"][0]["message"]
        assert not message["content"]
        assert message["refusal"]
