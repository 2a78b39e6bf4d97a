"""Where the states of conversations are kept for later programs, unless the user says otherwise."""

from contextlib import suppress
from pathlib import Path

import platformdirs


def default_sessions() -> Path:
    """A directory in the user's cache directory, which the server and `chat --session` share; made for the user alone,
    since it holds what was said."""
    directory = platformdirs.user_cache_path("flashmoe", appauthor=False) / "sessions"
    with suppress(OSError):  # whoever writes there says so
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return directory
