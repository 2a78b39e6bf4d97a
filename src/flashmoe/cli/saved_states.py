"""Where the states of conversations are kept for later programs, unless the user says otherwise."""

from pathlib import Path

import platformdirs


def default_sessions() -> Path:
    """A directory in the user's cache directory, which the server and `chat --session` share."""
    return platformdirs.user_cache_path("flashmoe", appauthor=False) / "sessions"
