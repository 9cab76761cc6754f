"""Whether a run can use the store of views that its config names, before it trains."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config

from rdistill.config.distill_spec import FUSED, StoreSpec
from rdistill.config.load import LoadedConfig
from rdistill.core.errors import UserError, message_line
from rdistill.core.words import counted
from rdistill.data.splits import training_images
from rdistill.distill.distiller import Distiller
from rdistill.distill.store_files import StoreFiles, store_files, teachers_in
from rdistill.distill.teacher import Teacher, make_store
from rdistill.distill.teacher_store import TeacherStore
from rdistill.models.segmentor import gives_logits, num_classes
from rdistill.schemas.store import StoreAbout

SHOWN = 3  # teachers that a message names


def describe_store(store: StoreSpec) -> str:
    """``16 views of each image; logits kept in 16 bits``."""
    kept = {"logits": "logits", "features": "logits and features", "nothing": "nothing"}[store.keep]
    return (
        f"{counted(store.views, 'view')} of each image; {kept} kept"
        + ("" if store.keep == "nothing" else f" in {store.bits} bits")
        + ("" if store.keep == "nothing" or store.top_k is None else f", of the {store.top_k} likeliest classes")
    )


def describe_places(places: Sequence[StoreFiles]) -> str:
    """``kept in FOLDER``; of a URI also the folder where its entries are kept too."""
    return f"kept in {' and '.join(files.where for files in places)}"


def stores_of(run: LoadedConfig, distiller: Distiller) -> list[TeacherStore]:
    """The store of each teacher of a run, as training will have it; none is written to."""
    stores = []
    for index, teacher in enumerate(distiller.teachers):
        own = run.distillation.teacher(index)
        if own.store is None or type(teacher) is not Teacher:
            continue
        own = own.model_copy(update={"forward": own.forward or FUSED})
        stores.append(make_store(teacher.model, own, Path("work_dirs", "store"), distiller.student.data_preprocessor))
    return stores


def look_at_store(run: LoadedConfig, distiller: Distiller) -> tuple[list[str], list[str]]:
    """What is wrong with the store that a config names, and what is worth knowing of it; one line each.

    A folder that only another teacher's outputs are in is refused: whoever names a folder that was filled means to read
    from it, and every image would be computed and kept a second time.
    """
    spec = None if run.distill is None else run.distill.store
    if spec is None:
        return [], []
    notes = _pass_notes(run.cfg, spec.views)
    if problems := _top_k_problems(spec, distiller):
        return problems, notes
    if spec.dir is None or spec.keep == "nothing":
        return [], notes
    try:
        stored = teachers_in(store_files(spec.dir))
        stores = stores_of(run, distiller)
    except UserError as error:
        return list(error.problems), notes
    except OSError as error:
        return [f"distill.store.dir: {spec.dir} cannot be read: {message_line(error)}"], notes
    weights = {about["weights"] for about in stored.values() if "weights" in about}
    if stored and stores and not any(store.folder in stored or store.about["weights"] in weights for store in stores):
        return [
            f"distill.store.dir: {spec.dir} holds the outputs of {_named(list(stored.values()))} alone, and none of "
            f"{stores[0].about['teacher']} with {stores[0].about['checkpoint']}; set that teacher, another folder, or "
            f"add this teacher's outputs with `rdistill store build`"
        ], notes
    for store in stores:
        of_teacher = [about for about in stored.values() if about.get("weights") == store.about["weights"]]
        if of_teacher and store.folder not in stored:
            notes.append(
                f"distill.store.dir: {spec.dir} holds this teacher's outputs, but with other "
                f"{_difference(of_teacher[0], store.about)}: they cannot be used, and are computed"
            )
    return [], notes


def _top_k_problems(spec: StoreSpec, distiller: Distiller) -> list[str]:
    models = [teacher.model for teacher in distiller.teachers if type(teacher) is Teacher]
    few = [num_classes(model) for model in models if gives_logits(model)]
    if spec.top_k is None or not few or spec.top_k < min(few):
        return []
    return [f"distill.store.top_k: {spec.top_k} of {min(few)} classes leaves none out; set fewer, or leave it out"]


def passes_of(cfg: Config) -> float:
    """How often a training goes over its images with masks; above 0."""
    most = cfg.train_cfg.get("max_iters")
    if most is None:
        return float(cfg.train_cfg.max_epochs)
    return float(most * int(cfg.train_dataloader.batch_size) / training_images(cfg))


def _pass_notes(cfg: Config, views: int) -> list[str]:
    passes = passes_of(cfg)
    if passes >= views:
        return []
    taken = math.ceil(passes)
    return [
        f"distill.store.views: {views}, but the run has {passes:.3g} passes over its images: it takes {taken} of them, "
        f"each once, and only another run reads again what is kept"
    ]


def _named(stored: list[StoreAbout]) -> str:
    names = dict.fromkeys(f"{about['teacher']} ({about.get('checkpoint') or 'its own weights'})" for about in stored)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(list(names)[:SHOWN]) + more


def _difference(stored: StoreAbout, wanted: StoreAbout) -> str:
    """``bits (16 instead of 32)``: the first thing that differs which a user knows."""
    for what in ("bits", "top_k", "forward", "images"):
        if stored.get(what) != wanted.get(what):
            return f"{what} ({stored.get(what)} instead of {wanted.get(what)})"
    return "features listed, classes or input size, or another model around the same weights"
