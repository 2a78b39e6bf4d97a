"""What the page cache holds of a file: dropping a range, and seeing whether it is gone. Knows bytes alone."""

import os
from pathlib import Path

from flashmoe.files.opening import open_regular


def forget(path: Path, begin: int, nbytes: int) -> bool:
    """Ask the page cache to drop a range; whether it did, as far as the byte in the middle tells. False as well where
    the file system does not tell, as one in memory does not. Raises OSError if the file cannot be opened."""
    fd = open_regular(path)
    try:
        os.posix_fadvise(fd, begin, nbytes, os.POSIX_FADV_DONTNEED)
        os.preadv(fd, [bytearray(1)], begin + nbytes // 2, os.RWF_NOWAIT)
    except BlockingIOError:
        return True
    except OSError:
        pass
    finally:
        os.close(fd)
    return False
