"""Files of a checkpoint directory, and links among them.

A link may lead to a file of the same checkpoint. Anything else would let a checkpoint from a stranger have a private
file copied into a packed model, which somebody may publish. Knows paths, not what files hold.
"""

import os
from pathlib import Path

from flashmoe.errors import FormatError


def source_file(directory: Path, name: str) -> Path:
    """DIR/name; raises FormatError if it is a link that leads out of the checkpoint."""
    path = directory / name
    home, target = _home(directory), Path(os.path.realpath(path))
    if not target.is_relative_to(home):
        raise FormatError(
            f"{path} is a link to {target}, outside of {home}. Put the file itself there; from the Hugging Face "
            "cache, name the directory under models--*/snapshots."
        )
    return path


def _home(directory: Path) -> Path:
    """Where the files of a checkpoint lie: its directory, or all of models--ORG--NAME in the Hugging Face cache, whose
    snapshots are links to blobs."""
    resolved = Path(os.path.realpath(directory))
    repository = resolved.parent.parent
    return repository if resolved.parent.name == "snapshots" and repository.name.startswith("models--") else resolved
