"""proxy/cli/workspace.py: where processes run, what is left of them, and directories of others in the way."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.cli.process import Child, Launch
from proxy.cli.workspace import Workspace, locate, logs_elsewhere
from proxy.settings.paths import make_private
from tests.outcomes import Expects

NAME = f"workspace-{os.geteuid()}"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A directory like /tmp."""
    path = tmp_path / "tmp"
    path.mkdir()
    path.chmod(0o1777)
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def shell(workspace: Workspace, script: str) -> Launch:
    return Launch(("/bin/sh", "-c", script), {"PATH": os.environ["PATH"], "TMPDIR": "/elsewhere"}, str(workspace.cwd))


async def said(child: Child) -> str:
    """The end of what it has written to stderr, when it has ended."""
    while await child.read():
        pass
    await child.exited
    await child.stop(1)
    await asyncio.sleep(0)
    return child.stderr


# Where it is


def test_it_is_always_the_same_and_tells_nothing_of_the_user(base: Path, tmp_path: Path) -> None:
    state = tmp_path / "home" / "state"
    assert locate(state, base) == locate(state, base) == base.resolve() / NAME
    assert not state.exists()
    assert mode(base / NAME) == mode(base / NAME / "empty") == 0o700


def test_a_base_that_is_a_link_is_followed(base: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(base)
    assert locate(tmp_path / "state", tmp_path / "link") == base.resolve() / NAME


def link(base: Path) -> None:
    (base / "real").mkdir(mode=0o700)
    (base / NAME).symlink_to(base / "real")


def open_to_others(base: Path) -> None:
    (base / NAME).mkdir()
    (base / NAME).chmod(0o755)


def of_another_user(base: Path) -> None:
    (base / NAME).mkdir(mode=0o700)
    os.chown(base / NAME, 12345, 12345)


def a_file(base: Path) -> None:
    (base / NAME).write_text("")


def not_sticky(base: Path) -> None:
    base.chmod(0o777)


def base_of_another_user(base: Path) -> None:
    os.chown(base, 12345, 12345)


def no_base(base: Path) -> None:
    base.rmdir()


@pytest.mark.parametrize(
    "hostile", [link, open_to_others, of_another_user, a_file, not_sticky, base_of_another_user, no_base]
)
def test_what_is_not_ours_alone_is_not_used(
    base: Path, tmp_path: Path, hostile: Callable[[Path], None], expects: Expects
) -> None:
    expects("security", f"in the place of the CLI's workspace: {hostile.__name__.replace('_', ' ')}", "it is not used")
    try:
        hostile(base)
    except PermissionError:
        pytest.skip("only root can give directories away")
    before = sorted(base.rglob("*")) if base.exists() else []
    root = locate(tmp_path / "state", base)
    assert root == tmp_path / "state" / "workspace"
    assert mode(root) == mode(root / "empty") == mode(tmp_path / "state") == 0o700
    assert (sorted(base.rglob("*")) if base.exists() else []) == before


def test_the_working_directory_must_be_empty(base: Path, tmp_path: Path) -> None:
    root = locate(tmp_path / "state", base)
    (root / "empty" / "CLAUDE.md").write_text("obey")
    with pytest.raises(OSError, match="must be empty"):
        locate(tmp_path / "state", base)


def test_directories_are_private_in_spite_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        make_private(tmp_path / "a" / "b")
    finally:
        os.umask(before)
    assert mode(tmp_path / "a") == mode(tmp_path / "a" / "b") == 0o700
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        make_private(tmp_path / "file")


def test_logs_that_no_variable_moves(tmp_path: Path) -> None:
    root = Path("/private/tmp/workspace-501")
    assert logs_elsewhere(root, {"HOME": "/h"}, "linux") is None
    assert logs_elsewhere(root, {"HOME": "/h"}, "darwin") == Path(
        "/h/Library/Caches/claude-cli-nodejs/-private-tmp-workspace-501-empty"
    )


# Processes in it


async def test_each_process_has_a_directory_of_its_own_that_goes_with_it(base: Path, tmp_path: Path) -> None:
    workspace = Workspace(locate(tmp_path / "state", base))
    script = 'mkdir "$XDG_CACHE_HOME"; touch "$XDG_CACHE_HOME/log" "$TMPDIR/a"; echo "$TMPDIR $(pwd)" >&2; read -r line'
    children = [await workspace.start(shell(workspace, script)) for _ in range(2)]
    places = []
    for child in children:
        child.write(b"\n")
        place, cwd = (await said(child)).split()
        assert cwd == str(workspace.cwd)
        assert place.startswith(f"{workspace.cwd.parent}/run-")
        places.append(Path(place))
    assert places[0] != places[1]
    assert not any(place.exists() for place in places)
    workspace.close()
    assert sorted(path.name for path in workspace.cwd.parent.iterdir()) == ["empty", "lock"]


@pytest.mark.parametrize("end", ["kill -9 $$", "exit 0", "other"])
async def test_what_a_killed_process_has_told_of_itself_goes_with_it(
    base: Path, tmp_path: Path, end: str, expects: Expects
) -> None:
    if end == "kill -9 $$":
        expects("faults", "what a killed CLI has told of itself", "is removed from its configuration")
    workspace = Workspace(locate(tmp_path / "state", base))
    sessions = tmp_path / "config" / "sessions"
    sessions.mkdir(parents=True)
    # As 2.1.330 writes it; `other`: another program with the same number, elsewhere.
    own = "/elsewhere" if end == "other" else "$TMPDIR"
    script = f"""
        socket="{own}/cc-socks/$$.sock"
        printf '{{"pid":%d,"messagingSocketPath":"%s","kind":"interactive"}}' $$ "$socket" > "$DIR/$$.json"
        touch "$DIR/$$.$(printf %s "$socket" | eval "$HASH").key"
        {"kill -9 $$" if end == "other" else end}
    """
    (sessions / "1.json").write_text("not JSON")
    digest = f"{sys.executable} -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())'"
    env = {"PATH": os.environ["PATH"], "CLAUDE_CONFIG_DIR": str(sessions.parent), "DIR": str(sessions), "HASH": digest}
    child = await workspace.start(Launch(("/bin/sh", "-c", script), env, str(workspace.cwd)))
    assert await said(child) == ""
    assert len(list(sessions.iterdir())) == (1 if end == "kill -9 $$" else 3)
    workspace.close()


async def test_a_start_that_fails_leaves_nothing(base: Path, tmp_path: Path) -> None:
    workspace = Workspace(locate(tmp_path / "state", base))
    with pytest.raises(FileNotFoundError):
        await workspace.start(Launch(("/nowhere/at/all",), {}, str(workspace.cwd)))
    (run,) = workspace.cwd.parent.glob("run-*")
    assert [path.name for path in run.iterdir()] == ["lock"]
    workspace.close()


@pytest.mark.parametrize("removed", ["run-*", "empty", "."])
async def test_what_is_removed_meanwhile_is_made_again(
    base: Path, tmp_path: Path, removed: str, expects: Expects
) -> None:
    expects("faults", f"the CLI's workspace is removed while serving ({removed})", "made again at the next start")
    workspace = Workspace(locate(tmp_path / "state", base))
    for path in [workspace.cwd.parent] if removed == "." else [*workspace.cwd.parent.glob(removed)]:
        shutil.rmtree(path)
    child = await workspace.start(shell(workspace, 'touch "$TMPDIR/a" && pwd >&2'))
    assert await said(child) == str(workspace.cwd)
    assert mode(workspace.cwd) == mode(workspace.cwd.parent) == 0o700
    workspace.close()


async def test_nothing_is_started_in_a_directory_that_another_has_put_there(base: Path, tmp_path: Path) -> None:
    workspace = Workspace(locate(tmp_path / "state", base))
    workspace.cwd.rmdir()
    workspace.cwd.symlink_to("/")
    with pytest.raises(PermissionError):
        await workspace.start(shell(workspace, "pwd >&2"))
    workspace.close()


def test_what_a_killed_server_has_left_is_removed_by_the_next(base: Path, tmp_path: Path) -> None:
    root = locate(tmp_path / "state", base)
    killed, living = Workspace(root), Workspace(root)
    os.close(killed._lock)  # as the kernel does
    (killed._run / "a").mkdir()
    logs = tmp_path / "logs"
    logs.mkdir()
    following = Workspace(root, logs)
    assert not killed._run.exists()
    assert living._run.exists()
    assert not logs.exists()
    living.close()
    logs.mkdir()
    following.close()
    assert not logs.exists()
    assert [*root.glob("run-*")] == []
