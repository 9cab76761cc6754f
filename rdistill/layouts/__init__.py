"""The layouts of data folders: how each is recognised and what a dataset then reads, one declaration each.

A config says where its images and masks are; where they are not there, the folder of ``data_root`` may still have a
layout that is known. :data:`LAYOUTS` holds rdistill's own (:mod:`.own`) and those of users, registered by
:func:`register`. Imports :mod:`rdistill.registration` and :mod:`rdistill.core` alone. Begin with :mod:`.registry`.
"""

from __future__ import annotations

from rdistill.layouts.registry import LAYOUTS, SPLITS, LayoutInfo, describe_folder, find_keys, register

from . import own  # isort: skip  # noqa: F401

__all__ = ["LAYOUTS", "SPLITS", "LayoutInfo", "describe_folder", "find_keys", "register"]
