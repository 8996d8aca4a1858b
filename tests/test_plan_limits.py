"""proxy/cli/plan_limits.py, and a server whose plan is used up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.cli.plan_limits import PlanLimits
from proxy.protocol.failures import Failure, Kind, Rejection
from tests import cli_lines as say
from tests import fake_cli
from tests.clock import Clock
from tests.conftest import chat
from tests.served import Served

LIMIT = Failure(Kind.PLAN_LIMIT, "Used up.", resets_at=5000.0)


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


@pytest.fixture
def limits(clock: Clock) -> PlanLimits:
    found = PlanLimits(60.0, clock)
    found.failed("opus", LIMIT)
    return found


def passes(limits: PlanLimits, model: str = "opus", request: str = "r") -> bool:
    try:
        limits.check(model, request)
    except Rejection as rejection:
        return rejection.failure != LIMIT
    return True


def test_until_it_ends_nobody_asks(limits: PlanLimits, clock: Clock) -> None:
    assert limits.ends == {"opus": 5000.0}
    assert not any(passes(limits, request=str(number)) for number in range(5))
    clock.now = 5000.0
    assert limits.ends == {}
    assert all(passes(limits, request=str(number)) for number in range(5))


def test_one_a_minute_tries(limits: PlanLimits, clock: Clock) -> None:
    let_through = []
    for second in range(1, 601):
        clock.now = 1000.0 + second
        let_through += [second for number in range(3) if passes(limits, request=f"{second}-{number}")]
    assert let_through == list(range(60, 601, 60))


def test_one_that_tries_may_ask_as_often_as_it_needs_to(limits: PlanLimits, clock: Clock) -> None:
    clock.now += 60
    assert passes(limits, request="several choices")
    assert passes(limits, request="several choices")
    assert not passes(limits, request="another")
    assert not passes(limits, request="")
    limits.failed("opus", LIMIT)
    assert not passes(limits, request="several choices")


def test_those_without_a_name_are_not_one(limits: PlanLimits, clock: Clock) -> None:
    clock.now += 60
    assert passes(limits, request="")
    assert not passes(limits, request="")


def test_a_try_that_is_answered_lifts_it(limits: PlanLimits, clock: Clock) -> None:
    clock.now += 60
    limits.answered("opus", limits.check("opus", "r"))
    assert limits.ends == {}
    assert passes(limits, request="s")


def test_an_answer_to_what_was_asked_before_says_nothing(limits: PlanLimits, clock: Clock) -> None:
    limits.answered("opus", clock.now - 1)
    assert not passes(limits)


def test_other_models_are_not_concerned(limits: PlanLimits, clock: Clock) -> None:
    assert passes(limits, "haiku")
    limits.answered("haiku", clock.now)
    assert not passes(limits, "opus")
    limits.failed("haiku", LIMIT)
    assert limits.ends == {"opus": 5000.0, "haiku": 5000.0}


@pytest.mark.parametrize(
    "failure",
    [
        Failure(Kind.PLAN_LIMIT, "No time."), Failure(Kind.PLAN_LIMIT, "Over.", resets_at=999.0),
        Failure(Kind.RATE_LIMIT, "Soon.", resets_at=5000.0), Failure(Kind.KEY_LIMIT, "A key's.", resets_at=5000.0),
    ],
)  # fmt: skip
def test_other_failures_are_not_remembered(clock: Clock, failure: Failure) -> None:
    limits = PlanLimits(60.0, clock)
    limits.failed("opus", failure)
    assert limits.ends == {}
    assert passes(limits)


def test_with_zero_all_try(clock: Clock) -> None:
    limits = PlanLimits(0.0, clock)
    limits.failed("opus", LIMIT)
    assert all(passes(limits, request=str(number)) for number in range(5))


def test_a_clock_that_is_set_back_holds_nobody_up(limits: PlanLimits, clock: Clock) -> None:
    clock.now -= 500
    assert passes(limits)


# A server

Start = Callable[..., Served]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a server whose plan is used up for all models but Haiku."""
    opened: list[Served] = []
    ends = time.time() + 3600
    lines: list[dict[str, Any]] = [
        say.limits("rejected", resetsAt=ends, rateLimitType="five_hour"),
        say.error_result("Used up.", api_error="usage_limit_reached"),
    ]

    def started(**settings: str) -> Served:
        cli = fake_cli.write(tmp_path / "cli", limited=lines)
        variables = {f"CLAUDE_PROXY_{name.upper()}": value for name, value in settings.items()}
        server = Served(cli, tmp_path / "state", {"CLAUDE_PROXY_WAITING": "0", **variables})
        opened.append(server.__enter__())
        return server

    yield started
    for server in opened:
        server.__exit__(None, None, None)


def asked(tmp_path: Path) -> int:
    """How many questions have reached the CLI."""
    return sum(line["type"] == "user" for lines in fake_cli.told(tmp_path / "cli") for line in lines)


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_known_is_told_at_once(start: Start, tmp_path: Path, stream: bool) -> None:
    server = start()
    answers = [server.chat(chat("hi", stream=stream)) for _ in range(4)]
    assert asked(tmp_path) == 1
    for answer in answers:
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "insufficient_quota")
        assert 3000 < int(answer.headers["retry-after"]) <= 3600
        assert answer.headers["x-should-retry"] == "false"
    assert len({answer.json()["error"]["message"] for answer in answers}) == 1
    (ends,) = server.get("/health").json()["plan_limits"].items()
    assert ends[0] == "opus"
    assert ends[1] > time.time()
    assert 'claude_max_api_plan_limit_end_timestamp_seconds{model="opus"}' in server.get("/metrics").text
    assert [row["outcome"] for row in server.recent()] == ["plan_limit"] * 4
    # What the plan still gives is given.
    assert server.chat(chat("hi") | {"model": "haiku"}).status_code == 200
    assert asked(tmp_path) == 2


def test_whoever_wants_to_may_ask_each_time(start: Start, tmp_path: Path) -> None:
    server = start(limit_retry="0")
    assert [server.chat(chat("hi")).status_code for _ in range(3)] == [429] * 3
    assert asked(tmp_path) == 3


def test_the_fallback_is_asked_at_once(start: Start, tmp_path: Path) -> None:
    server = start(fallback="model:haiku", parked="0")
    for number in range(1, 4):
        answer = server.chat(chat("hi"))
        assert (answer.status_code, answer.headers["x-claude-proxy-fallback"]) == (200, "model:haiku")
        assert asked(tmp_path) == 1 + number
