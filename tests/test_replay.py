"""Every scenario, whole and streamed, through a real server on the fake CLI: the facts hold, and nothing is sent to the
CLI that its recording does not know."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from conformance import scenario as scenarios
from conformance.record import SCENARIOS
from conformance.replay import NEWEST, TRANSCRIPTS, Server, drive, player_shim
from conformance.scenario import Mode, Scenario
from conformance.transcript import versions

Settings = tuple[tuple[str, str], ...]
ServerFor = Callable[[str, Settings], tuple[Server, Path]]

CASES = [
    pytest.param(
        version, one, mode, id=f"{version}-{one.name}-{mode}", marks=() if version == NEWEST else pytest.mark.ci
    )
    for version in versions(TRANSCRIPTS)
    for one in scenarios.every(SCENARIOS)
    if (TRANSCRIPTS / version / f"{one.name}.jsonl").exists()
    for mode in one.modes
]


@pytest.fixture(scope="session")
def server_for(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerFor]:
    """One server for each CLI version and settings, started when it is first asked for, and its player's folder."""
    running: dict[tuple[str, Settings], tuple[Server, Path]] = {}
    with ExitStack() as stack:

        def server(version: str, settings: Settings) -> tuple[Server, Path]:
            if (version, settings) not in running:
                folder = tmp_path_factory.mktemp("player")
                started = stack.enter_context(Server(player_shim(folder, version), dict(settings)))
                running[version, settings] = started, folder
            return running[version, settings]

        yield server


@pytest.mark.parametrize(("version", "scenario", "mode"), CASES)
async def test_the_facts_of_a_scenario_hold(
    version: str, scenario: Scenario, mode: Mode, server_for: ServerFor
) -> None:
    server, folder = server_for(version, tuple(sorted(scenario.settings.items())))
    problems = await drive(scenario, mode, server.url)
    different = folder / "differences.txt"
    if different.exists():
        problems.append(different.read_text("utf-8"))
        different.unlink()
    assert not problems, "\n".join(problems)
