"""A server from a loaded model: refuse to be reached by all without a key, serve until a signal, end cleanly."""

import ipaddress
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from flashmoe.chat.replay import WrittenTurns
from flashmoe.engine.engine import SNAPSHOT_DISK
from flashmoe.engine.scheduler import Scheduler
from flashmoe.errors import FlashMoeError
from flashmoe.server.app import make_app
from flashmoe.server.guard import loopback_names
from flashmoe.server.service import Service
from flashmoe.text_engine import TextEngine

GRACE_SECONDS = 10
"""For answers on their way when a signal comes; what is left then is cancelled."""
_CONNECTIONS = 512


def check_exposure(host: str, key: str | None, insecure: bool) -> None:
    """Raise FlashMoeError for a server that others can reach and anyone may use, unless that is wanted."""
    if not is_loopback(host) and key is None and not insecure:
        raise FlashMoeError(
            f"On {host} others can reach this server, and without a key anyone may use it. Give --api-key, or "
            "--insecure if that is what you want."
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach that address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; FlashMoeError where there can be none. Port 0 is any that is free."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with ExitStack() as unless_bound:
            listener = unless_bound.enter_context(socket.socket(family, socket.SOCK_STREAM))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(_CONNECTIONS)
            unless_bound.pop_all()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FlashMoeError(f"Nothing can listen on {host} port {port}: {reason}. Choose another --port.") from None
    return listener


def http_server(app: ASGIApp) -> uvicorn.Server:
    """Not yet running."""
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        limit_concurrency=_CONNECTIONS,
    )
    return uvicorn.Server(config)


def serve(
    text: TextEngine,
    listener: socket.socket,
    *,
    name: str,
    key: str | None,
    sessions: Path | None = None,
    disk: int = SNAPSHOT_DISK,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Answer until SIGINT or SIGTERM. The engine and the socket are the caller's to close.

    sessions: where conversations outlive the server, in files of at most `disk` bytes; None: nowhere.
    """
    host = listener.getsockname()[0]
    if sessions:
        with suppress(OSError):  # whoever writes there says so
            sessions.mkdir(mode=0o700, parents=True, exist_ok=True)
    cache = text.engine.session_cache(sessions, disk)
    scheduler = Scheduler(text.engine, cache)
    try:
        hosts = loopback_names(host) if key is None and is_loopback(host) else None
        written = WrittenTurns(sessions / "turns.jsonl" if sessions else None)
        service = Service(text, scheduler, name, written)
        server = http_server(make_app(service, key, hosts))
        service.live.over = lambda: server.should_exit
        ready()
        server.run([listener])
    finally:
        scheduler.close()
        cache.flush()
