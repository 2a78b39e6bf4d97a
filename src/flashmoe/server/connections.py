"""Connections: how many there may be, how long one may be silent, and which gives way to a newcomer.

Invariant: where there is no room, the connection without a request gives way that has waited longest; one whose request
is being answered never does. Every wait for a client has an end. Knows sockets and uvicorn's protocol, not what is
asked.
"""

import asyncio
import logging
import resource
import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from time import monotonic

from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from flashmoe.server import limits

_log = logging.getLogger("flashmoe.server")
_MOST_DESCRIPTORS = 65_536
_ACCEPTED_AT_ONCE = 64
"""Then those who are here already get their turn."""
_PAUSE_SECONDS = 0.5
_SECONDS_BETWEEN_LINES = 60


class Room:
    """Who is connected. most: in all; one address may have three quarters of it."""

    def __init__(self, most: int) -> None:
        self._most, self._most_of_one = most, max(1, most * 3 // 4)
        self._address: dict[Connection, str] = {}
        self._from = Counter[str]()
        # Those without a request, in the order in which they came to be without; by address too.
        self._waiting: dict[Connection, None] = {}
        self._waiting_from: dict[str, dict[Connection, None]] = {}
        self._lost, self._next_line = Counter[str](), 0.0

    def enter(self, connection: "Connection", address: str) -> bool:
        """Take in a newcomer, which waits; False if it may not stay."""
        fits = self._from[address] < self._most_of_one or self._make_room(self._waiting_from.get(address, {}))
        if not fits or (len(self._address) >= self._most and not self._make_room(self._waiting)):
            self._lose("were refused")
            return False
        self._address[connection] = address
        self._from[address] += 1
        self.waits(connection)
        return True

    def leave(self, connection: "Connection") -> None:
        """It is closed, or about to be."""
        if (address := self._address.get(connection)) is None:
            return
        self.works(connection)
        del self._address[connection]
        self._from[address] -= 1
        if not self._from[address]:
            del self._from[address]

    def waits(self, connection: "Connection") -> None:
        """Its request is answered: it may give way to others."""
        if (address := self._address.get(connection)) is not None:
            self._waiting[connection] = None
            self._waiting_from.setdefault(address, {})[connection] = None

    def works(self, connection: "Connection") -> None:
        """A request of it has begun."""
        if connection in self._waiting:
            del self._waiting[connection]
            waiting = self._waiting_from[self._address[connection]]
            del waiting[connection]
            if not waiting:
                del self._waiting_from[self._address[connection]]

    def lack(self, error: OSError) -> None:
        """No connection can be accepted: somebody gives way, if anybody waits."""
        self._make_room(self._waiting)
        self._lose(f"could not be accepted ({error.strerror})")

    def _make_room(self, waiting: "dict[Connection, None]") -> bool:
        longest = next(iter(waiting), None)
        if longest is None:
            return False
        self.leave(longest)
        longest.give_way()
        self._lose("gave way to newcomers")
        return True

    def _lose(self, how: str) -> None:
        """Say so, once a minute at most."""
        self._lost[how] += 1
        if monotonic() >= self._next_line:
            self._next_line = monotonic() + _SECONDS_BETWEEN_LINES
            told = ", ".join(f"{number} {how}" for how, number in self._lost.items())
            self._lost.clear()
            _log.warning(
                "Connections are short (%d in all, %d of one address): since the last such line %s.",
                self._most,
                self._most_of_one,
                told,
            )


class Connection(H11Protocol):
    """One connection. Aborted where the client owes something and it does not come."""

    def __init__(self, config: Config, state: ServerState, room: Room) -> None:
        super().__init__(config, state, {})
        self._room = room
        self._to_come: asyncio.TimerHandle | None = None  # the end of waiting for a head, or for the rest of a body
        self._to_be_read: asyncio.TimerHandle | None = None
        self._gave_way = False

    def give_way(self) -> None:
        self._gave_way = True
        if self.transport is not None:
            self.transport.abort()

    @property
    def _working(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _expect_data(self) -> None:
        if self._to_come is None:
            self._to_come = self.loop.call_later(limits.HEAD_SECONDS, self.transport.abort)

    def _expect_reading(self) -> None:
        if self._to_be_read is None:
            self._to_be_read = self.loop.call_later(limits.UNREAD_SECONDS, self.transport.abort)

    def _data_came(self) -> None:
        if self._to_come is not None:
            self._to_come.cancel()
            self._to_come = None

    def _was_read(self) -> None:
        if self._to_be_read is not None:
            self._to_be_read.cancel()
            self._to_be_read = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self._gave_way:
            transport.abort()
        self._expect_data()

    def connection_lost(self, exc: Exception | None) -> None:
        self._data_came()
        self._was_read()
        self._room.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._working:
            self._expect_data()
        super().data_received(data)
        if self._working:
            self._data_came()
            self._room.works(self)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._working:  # on the next request, which was here already
            return
        self._room.waits(self)
        if self.transport.is_closing():
            self._expect_reading()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._was_read()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._expect_reading()  # what is left of the last answer


class Acceptor:
    """Accepts connections of a listening socket, while the event loop runs. uvicorn treats it as asyncio's server."""

    def __init__(self, listener: socket.socket, room: Room, make: Callable[[], Connection]) -> None:
        listener.setblocking(False)
        self._listener, self._room, self._make = listener, room, make
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._welcomes = set[asyncio.Task[object]]()
        self._listen()

    def close(self) -> None:
        """Accept nothing more."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listener)

    async def wait_closed(self) -> None:
        """Nothing is left to wait for."""

    def _listen(self) -> None:
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                accepted, address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                # The socket stays readable, so that without a pause this would come again at once, and for ever.
                self._room.lack(error)
                self._loop.remove_reader(self._listener)
                self._pause = self._loop.call_later(_PAUSE_SECONDS, self._listen)
                return
            connection = self._make()
            if not self._room.enter(connection, str(address[0])):
                accepted.close()
                continue
            accepted.setblocking(False)
            welcome = self._loop.create_task(self._welcome(connection, accepted))
            self._welcomes.add(welcome)
            welcome.add_done_callback(self._welcomes.discard)

    async def _welcome(self, connection: Connection, accepted: socket.socket) -> None:
        await self._loop.connect_accepted_socket(lambda: connection, accepted)


def most_connections() -> int:
    """How many may be open at once, after the limit of descriptors is raised as far as the system lets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
        except (OSError, ValueError):
            pass  # macOS has a limit of its own, which it does not say
    free = (most if soft == resource.RLIM_INFINITY else soft) - len(list(Path("/dev/fd").iterdir()))
    return max(1, min(limits.CONNECTIONS, free - min(limits.KEPT_DESCRIPTORS, free // 2)))
