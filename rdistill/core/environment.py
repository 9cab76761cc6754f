"""Sets environment variables that libraries read when they are imported."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from rdistill.core.files import own_folder


def keep_to_the_work_dir() -> None:
    """Keeps libraries such as wandb, matplotlib and yapf from using the network or writing to the home directory.

    Variables that the user has set stay.
    """
    os.environ.setdefault("WANDB_MODE", "offline")
    # Pretrained weights that a user names stay in PyTorch's usual folder.
    os.environ.setdefault("TORCH_HOME", str(Path("~/.cache/torch").expanduser()))
    if "XDG_CACHE_HOME" not in os.environ:
        os.environ["XDG_CACHE_HOME"] = str(_cache_folder())
    os.environ.setdefault("MPLCONFIGDIR", str(Path(os.environ["XDG_CACHE_HOME"], "matplotlib")))


def _cache_folder() -> Path:
    """A cache folder that all commands of a user share, or a folder of this process if another user has that name.

    wandb writes its log there. So no other user may read the folder, or may have put a link in its place.
    """
    shared = Path(tempfile.gettempdir(), f".cache-rdistill-{os.getuid()}")
    try:
        if own_folder(shared):
            return shared
    except OSError:  # a disk that is full or cannot be written to
        pass
    folder = Path(tempfile.mkdtemp(prefix="cache-rdistill-"))
    made_by = os.getpid()

    def remove() -> None:
        if os.getpid() == made_by:  # not when a forked child process ends
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder
