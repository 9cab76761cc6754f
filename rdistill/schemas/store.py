"""The types of records about a store of views."""

from __future__ import annotations

from typing import TypedDict

VIEWS = "distill.store.views"  # the config key; records and tables have the number of views under it


class StoreAbout(TypedDict, total=False):
    """``about.json``: the teacher of a folder of a store, and everything but images that its outputs depend on."""

    teacher: str  # the name of the teacher's config
    checkpoint: str | None
    weights: str  # digest of the weights, as hexadecimal text
    forward: str
    bits: int
    top_k: int | None
    images: str  # how images are normalised and padded
    setting: str  # everything that distinguishes two folders of one teacher
    used: float  # the last time that a run started to use it, in seconds since 1970


class StoreContents(TypedDict):
    """The content of a store for one teacher."""

    id: str  # the name of the folder
    about: StoreAbout
    entries: int  # number of entries, each of which is the output for one view
    bytes: int


class StoreVerified(TypedDict):
    """The result of reading every entry of a store."""

    entries: int
    bytes: int
    damaged: int  # number of entries that do not have their checksum


class ViewsDone(TypedDict):
    """The result of a task of `rdistill store build`."""

    views: int  # number of views that are in the store now
    computed: int  # number of views on which a teacher ran
    written: int  # bytes
    damaged: int
    notes: list[str]


class StorePlan(TypedDict):
    """The plan of `rdistill store build`."""

    images: int
    views: int  # number of views of each image
    teachers: list[StoreAbout]
    outputs: list[str]  # shapes of the outputs that are kept for each view, without the batch dimension
    bytes_a_view: int  # bytes for each view, of all teachers together
    batch: int  # images in a batch of a teacher
    notes: list[str]
