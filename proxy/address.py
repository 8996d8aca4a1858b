"""Where the server listens: an address and port, or a Unix socket; plain or with TLS."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import http.client
import json
import os
import socket
import ssl
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from proxy.checks import Check
from proxy.settings import Settings

# Seconds within which a server that is there already has to say who it is.
PATIENCE: Final = 2.0


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to the address, not yet listening. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    # `localhost` may mean ::1 first, where a client that was told 127.0.0.1 finds nobody.
    family, kind, protocol, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # `::` means every address, of either kind, whatever the system's own setting.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address[0] != "::"))
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


def of_ollama(settings: Settings) -> Settings | None:
    """The same settings with the second port as the only address; None where there is none."""
    if settings.ollama_port is None:
        return None
    return msgspec.structs.replace(settings, port=settings.ollama_port, uds=None)


def uds_path(settings: Settings) -> Path:
    return Path(settings.uds or "").expanduser().absolute()


def _lock(directory: int) -> None:
    """Until it is closed; not for ever, as anyone who can read it could hold it."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(0.05)


def bind_unix(path: Path) -> socket.socket:
    """A Unix socket that only this user can connect to. One that a server left behind is replaced. Raises OSError.

    It listens at once: what does not listen is taken for left behind by another server that starts.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Of two that start together one looks, removes and binds first.
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    mask = None
    try:
        _lock(directory)
        mask = os.umask(0o177)
        if path.exists() and stat.S_ISSOCK(path.lstat().st_mode):
            with contextlib.suppress(ConnectionRefusedError), _connect_unix(path):
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
            path.unlink()
        sock.bind(str(path))
        sock.listen()
    except BaseException:
        sock.close()
        raise
    finally:
        if mask is not None:
            os.umask(mask)
        os.close(directory)
    return sock


@contextlib.contextmanager
def bound(settings: Settings) -> Iterator[socket.socket]:
    """The socket to serve on, bound and not listening; a Unix socket's file goes with it. Raises OSError."""
    if settings.uds is None:
        with bind(settings.host, settings.port) as sock:
            yield sock
        return
    path = uds_path(settings)
    with bind_unix(path) as sock:
        made = path.stat()
        try:
            yield sock
        finally:
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(path.stat(), made):
                    path.unlink()


def reachable(host: str) -> str:
    """The host by which a client on this computer reaches a server that is bound to `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def base_url(settings: Settings, port: int) -> str:
    """By which clients on this computer reach it; on a Unix socket the host is a placeholder."""
    scheme = "https" if settings.tls_cert else "http"
    if settings.uds is not None:
        return f"{scheme}://localhost"
    host = reachable(settings.host)
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def spoken(settings: Settings) -> str:
    """The address, for a sentence."""
    return str(uds_path(settings)) if settings.uds is not None else f"{settings.host}, port {settings.port}"


def _connect_unix(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(PATIENCE)
        sock.connect(str(path))
    except BaseException:
        sock.close()
        raise
    return sock


def connect(settings: Settings) -> http.client.HTTPConnection:
    """A connection to the server that listens where the settings say. Raises OSError."""
    if settings.uds is not None:
        sock = _connect_unix(uds_path(settings))
    else:
        sock = socket.create_connection((reachable(settings.host), settings.port), PATIENCE)
    if settings.tls_cert is not None:
        # It is this computer's own server that is asked, and nothing secret is told to it.
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        sock = context.wrap_socket(sock)
    connection = http.client.HTTPConnection("localhost", timeout=PATIENCE)
    connection.sock = sock
    return connection


def ours(settings: Settings) -> bool:
    """Whether a server of this program answers there."""
    try:
        with contextlib.closing(connect(settings)) as connection:
            connection.request("GET", "/health")
            return "cli_version" in json.loads(connection.getresponse().read(65536))
    except (OSError, http.client.HTTPException, ValueError, TypeError):
        return False


def address_refused(settings: Settings, error: OSError) -> Check:
    """What `bound` said, in words."""
    if error.errno == errno.EADDRINUSE:
        user = "a claude-max-api that is already running" if ours(settings) else "another program"
        if settings.uds is not None:
            return Check("FAIL", "address", f"{spoken(settings)} is in use by {user}.", "choose another path for --uds")
        port = settings.port
        if port == settings.ollama_port:
            help = "stop that program (Ollama itself, most likely), or serve without CLAUDE_PROXY_OLLAMA_PORT"
            return Check("FAIL", "address", f"Port {port} is in use by {user}.", help)
        return Check("FAIL", "address", f"Port {port} is in use by {user}.", f"claude-max-api {port % 65535 + 1}")
    message = f"{spoken(settings)}, cannot be served on: {error.strerror or error}."
    return Check("FAIL", "address", message, "choose another with CLAUDE_PROXY_HOST and CLAUDE_PROXY_PORT")


def check_address(settings: Settings) -> Check:
    try:
        with bound(settings):
            pass
    except OSError as error:
        if error.errno == errno.EADDRINUSE and ours(settings):
            return Check("ok", "address", f"{spoken(settings)}: claude-max-api is serving there")
        return address_refused(settings, error)
    return Check("ok", "address", f"{spoken(settings)}: free")


def check_tls(settings: Settings) -> Check:
    """Whether certificate and key can be used, if there are any."""
    if settings.tls_cert is None or settings.tls_key is None:
        return Check("ok", "tls", "off")
    try:
        # A key with a passphrase would be asked for at the terminal, by a service at nobody's.
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
            settings.tls_cert, settings.tls_key, lambda: ""
        )
    except OSError as error:
        message = f"{settings.tls_cert} and {settings.tls_key} cannot be used: {error.strerror or error}."
        return Check("FAIL", "tls", message, "name a PEM certificate, and its private key without a passphrase")
    return Check("ok", "tls", settings.tls_cert)
