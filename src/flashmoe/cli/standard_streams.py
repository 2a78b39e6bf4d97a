"""Standard streams that the shell closed (`>&-`). Knows file descriptors only."""

import os
import sys


def open_closed_streams() -> None:
    """Open something in place of each closed standard stream. Call it before anything else opens a file.

    Else the next file would get the stream's number, and what is printed would go into it. Reading the new stdin ends
    at once, writing to the new stdout fails as it does in other programs, and the new stderr forgets.
    """
    for number, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # the lowest number that is free, which is this one
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
