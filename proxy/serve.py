"""Serving: pool, application and uvicorn put together, from the first signal to the last child's end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Final

import msgspec

from proxy import offload
from proxy.allocation import give_back_large_blocks
from proxy.cli.find import FoundCli
from proxy.cli.inspect import InspectedChild
from proxy.cli.launch import launch
from proxy.cli.pool import Pool
from proxy.cli.process import Child, Launch
from proxy.cli.recall import MAX_AGE, MAX_BYTES, Recall
from proxy.cli.refusals import FILE as REFUSALS_FILE
from proxy.cli.refusals import Refusals
from proxy.cli.unproven import FILE as UNPROVEN_FILE
from proxy.cli.unproven import UNPROVEN
from proxy.cli.workspace import Workspace, locate, logs_elsewhere
from proxy.demo import DemoChild
from proxy.http.accounts import Accounts
from proxy.http.app import create_app
from proxy.http.fallback import Fallback
from proxy.http.inspector import Inspector
from proxy.http.server import Server
from proxy.http.service import Service
from proxy.http.store import limits
from proxy.keys.keyring import Keyring
from proxy.log import BufferedHandler
from proxy.protocol.lines import ListedModel, RateLimitInfo
from proxy.reload import Reload
from proxy.running import registered
from proxy.secret import server_secret
from proxy.settings import Login, Settings
from proxy.settings.paths import answers_file, make_private, state_dir, store_file, usage_file
from proxy.settings.sources import Loaded
from proxy.store.answers import AnswersFile
from proxy.store.store import Store
from proxy.usage.writer import Ledger

log: Final = logging.getLogger("proxy.serve")

# The start waits no longer for the models of the CLI: they are for show.
MODELS_WAIT: Final = 10.0
MAX_FILES: Final = 16_384
# Responses in the background end with the processes that make them; so long may it take to store how.
ENDING: Final = 5.0
LEVELS: Final = {"error": logging.ERROR, "warn": logging.WARNING, "info": logging.INFO, "debug": logging.DEBUG}


def allow_many_files() -> None:
    """As many open files as may be had, within reason: every connection is one, every child three."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(MAX_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class LoopErrorHandler:
    """Handles what goes wrong in the event loop: it is logged, but for connections that cannot be accepted.

    When no descriptor is left for one, asyncio says so two thousand times a second; that is told every `EVERY` seconds.
    """

    EVERY: Final = 10.0

    def __init__(self) -> None:
        self._told_at = -math.inf

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if "accept()" not in context["message"]:
            loop.default_exception_handler(context)
        elif loop.time() - self._told_at >= self.EVERY:
            self._told_at = loop.time()
            log.error("No connection can be accepted: %s", context["exception"])


def configure_logging(settings: Settings) -> None:
    """Our lines to stderr; uvicorn's and asyncio's only when something is wrong."""
    logging.basicConfig(
        handlers=[BufferedHandler()], level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s"
    )
    set_level(settings)


def set_level(settings: Settings) -> None:
    """How much our own log says."""
    logging.getLogger("proxy").setLevel(LEVELS[settings.log_level])


def watch_children_without_threads() -> None:
    """Python 3.11 starts a thread for every child to wait for its end, unless it is told of this way; later ones know.

    Where the system has no `pidfd_open` (Linux before 5.3), or does not let it be used, threads it is.
    """
    if sys.version_info < (3, 12) and _has_pidfd():
        asyncio.get_event_loop_policy().set_child_watcher(asyncio.PidfdChildWatcher())


def _has_pidfd() -> bool:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True


@contextlib.contextmanager
def stop_signals(stop: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Call `stop` at SIGINT and SIGTERM, within the running loop."""
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        loop.add_signal_handler(number, stop, number)
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


class _Payments:
    """Tells what answers cost, and nothing else: the state of another login is not that of the plan."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    def paid(self, requests: Sequence[str], usd: float) -> None:
        self._accounts.paid(requests, usd)

    def limits(self, info: RateLimitInfo) -> None:
        pass


def fallback(
    loaded: Loaded, cli: FoundCli, workspace: Workspace, start: Callable[[Launch], Awaitable[Child]], service: Service
) -> Fallback | None:
    """What the settings want to answer when the plan is used up. Another login has processes of its own, started when
    they are needed: none waits."""
    settings, ledger = loaded.settings, service.accounts.ledger
    name, limit = settings.fallback, settings.fallback_usd
    if name is None:
        return None
    if name.startswith("model:"):
        model = service.model_for(name.partition(":")[2])
        return Fallback(name, service.pool, "", ledger, model=model, usd_per_day=limit)
    other = with_login(settings, name)
    pool = Pool(other, launch(cli.path, other, loaded.environ, str(workspace.cwd)), start, _Payments(service.accounts))
    return Fallback(name, pool, name, ledger, usd_per_day=limit)


def with_login(settings: Settings, login: str) -> Settings:
    """The settings of the processes of another login."""
    return msgspec.structs.replace(settings, login=msgspec.convert(login, Login), waiting=0)


async def _serve(
    loaded: Loaded,
    cli: FoundCli,
    sockets: list[socket.socket],
    announce: Callable[[tuple[ListedModel, ...]], None],
    reload: Callable[[], Loaded],
    inspect: bool = False,
) -> None:
    settings, environ = loaded.settings, loaded.environ
    offload.start()
    asyncio.get_running_loop().set_exception_handler(LoopErrorHandler())
    root = locate(state_dir(settings, environ, sys.platform))
    child = InspectedChild if inspect else Child
    workspace = Workspace(root, logs_elsewhere(root, environ, sys.platform), child)
    start = DemoChild.start if cli.demo else workspace.start
    file = usage_file(settings, environ, sys.platform)
    ledger = None if cli.demo else Ledger(file, settings.usage_days, settings.login)
    accounts = Accounts(ledger)
    state = None if cli.demo else state_dir(settings, environ, sys.platform)
    UNPROVEN.remember(None if state is None else state / UNPROVEN_FILE, cli.version_text)
    refusals = Refusals(None if state is None else state / REFUSALS_FILE, cli.version_text)
    store = answers = None
    if settings.store == "file" and state is not None:
        make_private(state)
        store = Store(store_file(settings, environ, sys.platform), limits(settings))
        answers = AnswersFile(answers_file(settings, environ, sys.platform), MAX_BYTES, MAX_AGE)
    pool = Pool(
        settings, launch(cli.path, settings, environ, str(workspace.cwd)), start, accounts,
        refusals=refusals, recall=Recall(time.monotonic, disk=answers),
    )  # fmt: skip
    secret = None if state is None else server_secret(state)
    service = Service(
        settings, pool, cli.version_text, cli.login_method, demo=cli.demo, accounts=accounts,
        keyring=Keyring(settings.api_keys, loaded.stored_keys, secret or b""), inspector=Inspector(texts=inspect),
        secret=secret,
        store=store,
    )  # fmt: skip
    service.fallback = other = fallback(loaded, cli, workspace, start, service)

    async def close_pools() -> None:
        # Not gathered: when this is cancelled, closing must go on.
        closing = [asyncio.create_task(one.close()) for one in (pool, *([other.pool] if other is not None else []))]
        await asyncio.wait(closing)
        for task in closing:
            task.result()

    server = Server(create_app(service), settings.grace, close_pools, tls=(settings.tls_cert, settings.tls_key))

    async def say() -> None:
        await server.listens.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(MODELS_WAIT if settings.waiting else 0):
                await pool.warm_pool.models_known.wait()
        announce(pool.warm_pool.models)

    if cli.demo:
        log.warning("Demo mode: every answer is a recorded one, no Claude model is asked.")
    if inspect:
        log.warning("Texts of requests and answers are kept in memory and shown on the page (--inspect).")
    with stop_signals(server.stop):
        asyncio.get_running_loop().add_signal_handler(
            signal.SIGHUP, Reload(loaded, service, reload, set_level, server.stop)
        )
        if ledger is not None:
            ledger.start()
        saying = asyncio.create_task(say())
        try:
            await pool.start()
            with registered(state_dir(settings, environ, sys.platform)):
                await server.serve(sockets=sockets)
        finally:
            saying.cancel()
            await service.jobs.drain(settings.grace)
            await close_pools()
            await service.jobs.drain(ENDING)
            workspace.close()
            if service.store is not None:
                service.store.close()
            if answers is not None:
                answers.close()
            if ledger is not None:
                await asyncio.to_thread(ledger.close)


def run(
    loaded: Loaded,
    cli: FoundCli,
    sockets: list[socket.socket],
    announce: Callable[[tuple[ListedModel, ...]], None],
    reload: Callable[[], Loaded],
    inspect: bool = False,
) -> int:
    """Serve on these sockets (bound, not listening) until told to stop; the exit code. Raises OSError.

    `reload`: the settings anew, when SIGHUP asks for it; raises SettingError. `inspect`: keep texts of
    the latest requests.
    """
    configure_logging(loaded.settings)
    allow_many_files()
    watch_children_without_threads()
    offload.give_way_quickly()
    give_back_large_blocks()
    asyncio.run(_serve(loaded, cli, sockets, announce, reload, inspect))
    return 0
