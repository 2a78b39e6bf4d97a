"""A body that every test of the server may send, and waiting until something is so."""

import time
from collections.abc import Callable
from typing import Any

from processes import HANG

CHAT = {"model": "small", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
PATHS = ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/messages/count_tokens"]


def until(condition: Callable[[], Any], seconds: float = HANG) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def idle(server: Any) -> bool:
    load = server.service.scheduler.stats
    return load.running == load.waiting == 0
