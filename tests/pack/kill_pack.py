"""Run a pack in a process of its own that SIGKILLs itself at a chosen moment: SRC OUT MOMENT [--delete-source].

A moment is a system call of the pack on a name (open, rename, remove, mkdir) or a report of progress. MOMENT 0 runs to
the end. Prints the number of moments.
"""

import os
import signal
import sys
from pathlib import Path

from flashmoe.pack.packer import Reports, pack
from flashmoe.pack.recipe import Recipe

EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}


def main(source: str, out: str, fatal: str, *options: str) -> None:
    moments = 0

    def moment(*_: object) -> None:
        nonlocal moments
        moments += 1
        if moments == int(fatal):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(lambda event, _: moment() if event in EVENTS else None)
    pack(Path(source), Path(out), Recipe(), delete_source=bool(options), reports=Reports(progress=moment))
    print(moments)


if __name__ == "__main__":
    main(*sys.argv[1:])
