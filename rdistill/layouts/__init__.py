"""The layouts of data folders: each declaration says how a layout is recognised and what a dataset reads there.

A config names the folders of its images and masks. If these do not exist, ``data_root`` may still have a known layout.
:data:`LAYOUTS` holds rdistill's layouts (:mod:`.own`) and those that users register with :func:`register`.

Imports :mod:`rdistill.registration` and :mod:`rdistill.core` only. Begin with :mod:`.registry`.
"""

from __future__ import annotations

from rdistill.layouts.registry import LAYOUTS, SPLITS, LayoutInfo, describe_folder, find_keys, register

from . import own  # isort: skip  # noqa: F401

__all__ = ["LAYOUTS", "SPLITS", "LayoutInfo", "describe_folder", "find_keys", "register"]
