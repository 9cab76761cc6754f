"""The table of texts by which rdistill recognises errors of other packages that have no class or field for it.

tests/unit/compat/test_texts.py raises each of these errors, so that it fails if a later version changes the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Text:
    """The text of an error.

    Attributes:
        package: the package that raises it.
        pattern: is searched for in the text of an error; a group in it is a value to read.
        meaning: what the error means for rdistill.
    """

    package: str
    pattern: re.Pattern[str]
    meaning: str

    def is_in(self, text: str | BaseException) -> bool:
        return self.pattern.search(str(text)) is not None

    def read(self, text: str | BaseException) -> str | None:
        """The first group that matched; None if the pattern is not in the text."""
        match = self.pattern.search(str(text))
        return next((group for group in match.groups() if group is not None), None) if match else None


def _text(package: str, pattern: str, meaning: str) -> Text:
    return Text(package, re.compile(pattern), meaning)


RAY_STARTS_SLOWLY = _text(
    "ray",
    r"timed out during startup|it contains the error message from the dashboard",
    "the machine is too busy, for a node or for its dashboard: ray.init is tried again",
)
RAY_MEMORY = _text(
    "ray", r"Memory on the node.*?\) was (.+?/.+?) \(", "how much memory the node had when a process was killed"
)
CPU_MEMORY = _text("torch", r"DefaultCPUAllocator", "a RuntimeError that stands for too little memory")
NO_SUCH_OPERATOR = _text(
    "torch",
    r"operator torchvision::\w+ does not exist",
    "torchvision's compiled operators do not fit this torch: they get names, and nothing computes them",
)
LOADER_DIED = _text(
    "torch", r"DataLoader worker|killed by signal", "a data worker was lost: the machine, worth another attempt"
)
CONNECTION_LOST = _text(
    "torch", r"Connection (closed|reset) by peer", "another process is gone: the machine, worth another attempt"
)
# gloo raises a plain RuntimeError for this, with many texts that begin with a line of its source.
PEER_GONE = _text(
    "torch",
    r"gloo|NCCL|DistBackendError|DistNetworkError|Connection closed",
    "a worker only says that another one is gone",
)
NOT_WRITTEN = _text(
    "torch", r"PytorchStreamWriter failed|inline_container|No space left on device", "torch.save could not write"
)
DISK_FULL = _text("torch", r"No space left", "and the disk is full")
UNSAFE_PICKLE = _text(
    "torch", r"GLOBAL ([\w.]+)|: ([\w.]+) (?:was|is) not an allowed", "what a checkpoint would run, if it were let"
)
NO_OPERATORS = _text("mmcv", r"mmcv\._ext|mmcv\.ops|Please install onedl-mmcv", "mmcv's compiled operators are absent")
REGISTRY_ADVICE = _text("mmengine", r" Please check whether.*", "advice on registries, of no use to who wrote a config")
PIXELS_CLAIMED = _text("pillow", r"\((\d+) pixels\)", "how many pixels an image's header claims")

NO_SUCH_COMMAND = _text("typer", r"^No such command '(.*?)'\.", "a command that does not exist")
TOO_MANY_WORDS = _text(
    "typer", r"^Got unexpected extra arguments? ?(?:\(s\) )?\((.*)\)", "more arguments than the command takes"
)
NEEDS_A_VALUE = _text("typer", r"^Option '(.*?)' requires an argument", "an option without its value")
TAKES_NO_VALUE = _text("typer", r"^Option '(.*?)' does not take a value", "a value for an option that takes none")


def names_scope(scope: str) -> Text:
    """The texts of mmengine and Python for a missing package, such as mmdet, that a config needs."""
    own = re.escape(scope)
    return _text("mmengine", rf"'{own}'|import {own}|{own}\.models|`{own}", f"{scope} is absent")


TABLE = {name: value for name, value in globals().items() if isinstance(value, Text)}
