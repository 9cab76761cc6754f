"""What is written down of a store of views."""

from __future__ import annotations

from typing import TypedDict

VIEWS = "distill.store.views"  # the config key; records and tables have the number of views under it


class StoreAbout(TypedDict, total=False):
    """``about.json``: whose outputs a folder of a store holds, and what they depend on beside the images."""

    teacher: str  # the name that its config has
    checkpoint: str | None
    weights: str  # digest of them, as hexadecimal text
    forward: str
    bits: int
    top_k: int | None
    images: str  # how they are normalised and padded
    setting: str  # all that tells two folders of one teacher apart
    used: float  # the last time that a run began to use it, in seconds since 1970


class StoreContents(TypedDict):
    """How much a store holds of one teacher."""

    id: str  # the name of its folder
    about: StoreAbout
    entries: int  # an output of one view each
    bytes: int


class StoreVerified(TypedDict):
    """What reading every entry of a store has shown."""

    entries: int
    bytes: int
    damaged: int  # entries that are not what their checksum says


class ViewsDone(TypedDict):
    """What a task of `rdistill store build` has done."""

    views: int  # that are in the store now
    computed: int  # those of them that a teacher ran on
    written: int  # bytes
    damaged: int
    notes: list[str]


class StorePlan(TypedDict):
    """What `rdistill store build` is about to do."""

    images: int
    views: int  # how many each image has
    teachers: list[StoreAbout]
    outputs: list[str]  # what is kept of each view: shapes, without the batch
    bytes_a_view: int  # what all teachers take together
    batch: int  # images that a teacher sees at once
    notes: list[str]
