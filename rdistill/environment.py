"""What the process tells the libraries under it before they are imported."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def keep_to_the_work_dir() -> None:
    """Nothing may look for a network or write to the home directory by itself: not wandb, matplotlib or yapf either.

    What the user has set stays.
    """
    os.environ.setdefault("WANDB_MODE", "offline")
    os.environ.setdefault("TORCH_HOME", str(Path("~/.cache/torch").expanduser()))  # where asked-for weights belong
    caches = Path(tempfile.gettempdir(), f".cache-rdistill-{os.getuid()}")
    os.environ.setdefault("XDG_CACHE_HOME", str(caches))
    os.environ.setdefault("MPLCONFIGDIR", str(caches / "matplotlib"))
