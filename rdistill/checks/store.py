"""Checks, before training, whether a run can use the store of views that its config names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config

from rdistill.config.distill_spec import FUSED, DistillSpec, StoreSpec
from rdistill.config.load import LoadedConfig
from rdistill.core.errors import UserError
from rdistill.core.storage import StorageError
from rdistill.core.words import counted, listed
from rdistill.core.work_dir import require_work_dir
from rdistill.data.splits import passes_over_images
from rdistill.distill.distiller import Distiller
from rdistill.distill.store_files import StoreFiles, store_files, teachers_in, why_it_failed
from rdistill.distill.teacher import Teacher, make_store
from rdistill.distill.teacher_store import TeacherStore
from rdistill.models.segmentor import gives_logits, num_classes
from rdistill.schemas.store import StoreAbout

MAX_SHOWN = 3  # number of teachers that a message lists


def describe_store(store: StoreSpec) -> str:
    """Describes a store section: ``16 views of each image; logits kept in 16 bits``."""
    kept = {"logits": "logits", "features": "logits and features", "nothing": "nothing"}[store.keep]
    return (
        f"{counted(store.views, 'view')} of each image; {kept} kept"
        + ("" if store.keep == "nothing" else f" in {store.bits} bits")
        + ("" if store.keep == "nothing" or store.top_k is None else f", of the {store.top_k} likeliest classes")
    )


def describe_locations(places: Sequence[StoreFiles]) -> str:
    """Says ``kept in FOLDER``; for a URI, also the local folder with copies of its entries."""
    return f"kept in {' and '.join(files.where for files in places)}"


def teacher_stores(run: LoadedConfig, distiller: Distiller) -> list[TeacherStore]:
    """Returns the store of each teacher of a run, like training creates it; nothing is written."""
    stores = []
    for index, teacher in enumerate(distiller.teachers):
        own = run.distillation.teacher(index)
        if own.store is None or type(teacher) is not Teacher:
            continue
        own = own.model_copy(update={"forward": own.forward or FUSED})
        stores.append(make_store(teacher.model, own, Path("work_dirs", "store"), distiller.student.data_preprocessor))
    return stores


def inspect_store(run: LoadedConfig, distiller: Distiller) -> tuple[list[str], list[str]]:
    """Returns problems and notes of the store that a config names, one line each.

    A folder with the outputs of other teachers only is a problem: a user who names a filled store wants to read from
    it, but all outputs would be computed and stored again.
    """
    spec = None if run.distill is None else run.distill.store
    if spec is None:
        return [], []
    passes = _pass_notes(run.cfg, spec.views)
    if problems := _top_k_problems(spec, distiller):
        return problems, passes
    if spec.dir is None or spec.keep == "nothing":
        return [], passes
    try:
        stored = teachers_in(store_files(spec.dir))
        stores = teacher_stores(run, distiller)
        # Outputs that are stored already are read by this run as well, however few passes it has.
        notes = [] if any(store.folder in stored for store in stores) else passes
        notes += _require_folders(spec, filled=bool(stored))
    except UserError as error:
        return list(error.problems), passes
    except (OSError, StorageError) as error:
        return [f"distill.store.dir: {spec.dir} cannot be read: {why_it_failed(spec.dir, error)}"], passes
    weights = {about["weights"] for about in stored.values() if "weights" in about}
    if stored and stores and not any(store.folder in stored or store.about["weights"] in weights for store in stores):
        return [
            f"distill.store.dir: {spec.dir} holds the outputs of {_named(list(stored.values()))} alone, and none of "
            f"{_named([stores[0].about])}; set that teacher, another folder, or add this teacher's outputs with "
            f"`rdistill store build`"
        ], notes
    for store in stores:
        entries = [about for about in stored.values() if about.get("weights") == store.about["weights"]]
        if entries and store.folder not in stored:
            notes.append(
                f"distill.store.dir: {spec.dir} holds this teacher's outputs, but with other "
                f"{_difference(entries[0], store.about)}: they cannot be used, and are computed"
            )
    return [], notes


def cache_folder_problems(spec: DistillSpec) -> list[str]:
    """Returns a problem for each folder of a cache that the section names and that cannot be written to."""
    problems: list[str] = []
    sections = [("distill.cache", spec.cache)]
    sections += [
        (f"distill.teachers[{index}].cache", own.cache) for index, own in enumerate(spec.teachers) if own.cache
    ]
    for key, cache in sections:
        if cache.dir is None or cache.mode == "off" or spec.store is not None:  # the store replaces the cache
            continue
        try:
            require_work_dir(cache.dir, f"{key}.dir")
        except UserError as error:
            problems += error.problems
    return problems


def _require_folders(spec: StoreSpec, *, filled: bool) -> list[str]:
    """Checks that the folders of a store can be written to.

    Args:
        spec: the store section.
        filled: whether the store has outputs already. They can be read from a folder that is read-only.

    Returns:
        A note on a filled folder that cannot be written to.

    Raises:
        UserError: one of the folders is a file, or outputs can be neither read from it nor written to it.
    """
    assert spec.dir is not None
    if spec.local is not None:
        require_work_dir(spec.local, "distill.store.local")
    try:
        require_work_dir(spec.dir, "distill.store.dir")
    except UserError as error:
        if not filled:
            raise
        return [
            f"{problem.removesuffix('; choose another')}: outputs that it lacks are computed in each run"
            for problem in error.problems
        ]
    return []


def _top_k_problems(spec: StoreSpec, distiller: Distiller) -> list[str]:
    models = [teacher.model for teacher in distiller.teachers if type(teacher) is Teacher]
    class_counts = [num_classes(model) for model in models if gives_logits(model)]
    if spec.top_k is None or not class_counts or spec.top_k < min(class_counts):
        return []
    return [
        f"distill.store.top_k: {spec.top_k} of {min(class_counts)} classes leaves none out; set fewer, or leave it out"
    ]


def _pass_notes(cfg: Config, views: int) -> list[str]:
    passes = passes_over_images(cfg)
    if passes >= views:
        return []
    used_views, unit = math.ceil(passes), "pass" if passes == 1 else "passes"
    return [
        f"distill.store.views: {views}, but the run has {passes:.3g} {unit} over its images: it takes {used_views} of "
        f"them, each once, and only another run reads again what is kept"
    ]


def _named(stored: list[StoreAbout]) -> str:
    names = dict.fromkeys(f"{about['teacher']} ({about.get('checkpoint') or 'its own weights'})" for about in stored)
    return listed(list(names), MAX_SHOWN)


def _difference(stored: StoreAbout, expected: StoreAbout) -> str:
    """Returns the first difference that a user can understand, such as ``bits (16 instead of 32)``."""
    for key in ("bits", "top_k", "forward", "images"):
        if stored.get(key) != expected.get(key):
            return f"{key} ({stored.get(key)} instead of {expected.get(key)})"
    return "features listed, classes or input size, or another model around the same weights"
