"""A server from a loaded model: refuse to be reached by all without a key, serve until a signal, end cleanly."""

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from flashmoe.chat.replay import WrittenTurns
from flashmoe.engine.engine import SNAPSHOT_DISK
from flashmoe.engine.scheduler import Scheduler
from flashmoe.errors import FlashMoeError
from flashmoe.server import limits
from flashmoe.server.app import make_app
from flashmoe.server.connections import Acceptor, Connection, Room, most_connections
from flashmoe.server.guard import loopback_names
from flashmoe.server.service import Service
from flashmoe.text_engine import TextEngine

GRACE_SECONDS = 10
"""For answers on their way when a signal comes; what is left then ends as if it had grown too long."""
_LAST_SECONDS = 5
"""For those ends to reach clients; who does not read is cut off then."""
_BACKLOG = 512


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
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        with ExitStack() as unless_bound:
            # asyncio turns Nagle's algorithm off where it sees that this is TCP; with it, what is sent in two pieces
            # waits 40 ms for the client's delayed acknowledgement of the first.
            listener = unless_bound.enter_context(socket.socket(family, kind, protocol))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
            unless_bound.pop_all()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FlashMoeError(f"Nothing can listen on {host} port {port}: {reason}. Choose another --port.") from None
    return listener


class HttpServer(uvicorn.Server):
    """Not yet running. out_of_time: ends the answers that are on their way GRACE_SECONDS after a signal. ended: called
    when all connections are closed. connections: how many there may be."""

    def __init__(
        self,
        app: ASGIApp,
        out_of_time: Callable[[], None],
        ended: Callable[[], None] = lambda: None,
        connections: int = limits.CONNECTIONS,
    ) -> None:
        config = uvicorn.Config(
            app,
            lifespan="off",
            http=Connection,
            ws="none",
            loop="asyncio",
            log_level="error",  # what it warns of is clients' doing, and told to them
            access_log=False,
            server_header=False,
            timeout_keep_alive=limits.IDLE_SECONDS,
            timeout_graceful_shutdown=GRACE_SECONDS + _LAST_SECONDS,
        )
        super().__init__(config)
        self._out_of_time, self._ended = out_of_time, ended
        self._room = Room(connections)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        def make() -> Connection:
            return Connection(self.config, self.server_state, self._room)

        self.servers = [Acceptor(listener, self._room, make) for listener in sockets or ()]  # type: ignore[misc]
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        late = asyncio.get_running_loop().call_later(GRACE_SECONDS, self._out_of_time)
        try:
            await super().shutdown(sockets)
        finally:
            late.cancel()
            for connection in list(self.server_state.connections):  # of those who do not read
                connection.transport.abort()
            await asyncio.sleep(0)  # in which they close
            self._ended()


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
    cache = text.engine.session_cache(sessions, disk)
    scheduler = Scheduler(text.engine, cache)

    def end() -> None:
        scheduler.close()
        cache.flush()

    try:
        hosts = loopback_names(host) if key is None and is_loopback(host) else None
        written = WrittenTurns(sessions / "turns.jsonl" if sessions else None)
        service = Service(text, scheduler, name, written)
        connections = most_connections()
        app = make_app(service, key, hosts, min(limits.REQUESTS, connections // 2))
        # uvicorn raises the signal once more at its end, which is the end of the process: what is to be saved is saved
        # before, and a thread that is still at work holds up nothing.
        server = HttpServer(app, scheduler.cancel, end, connections)
        service.live.over = lambda: server.should_exit
        ready()
        server.run([listener])
    finally:
        end()
