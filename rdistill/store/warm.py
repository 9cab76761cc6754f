"""Estimates how much of what a sweep needs its store has already, from a sample of views."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mmengine.dataset import pseudo_collate

from rdistill.checks.store import describe_locations, teacher_stores
from rdistill.config.load import LoadedConfig
from rdistill.data.datasets import VIEW
from rdistill.data.splits import passes_over_images
from rdistill.distill.distiller import Distiller
from rdistill.distill.teacher import Teacher
from rdistill.distill.teacher_store import TeacherStore
from rdistill.models.precision import autocast
from rdistill.models.quiet_mmseg import DATASETS
from rdistill.training.runner import prepare_config

SAMPLED_VIEWS = 32  # number of views that are looked up; more would take too long to augment


@dataclass(frozen=True)
class Stored:
    """The estimated share of a config's views that a store has.

    Attributes:
        stores: one for each teacher; None for a teacher whose outputs are not stored.
        kept: share of the sampled views that the store has, 0 to 1.
        computed: share of the images of one training for which the teachers must run, if no other run fills the store
            in the meantime.
    """

    stores: Sequence[TeacherStore | None]
    kept: float
    computed: float

    @property
    def line(self) -> str:
        """The line that the user sees."""
        places = dict.fromkeys(describe_locations(store.places) for store in self.stores if store is not None)
        share = f"about {self.kept:.0%} of the views are there; {self.computed:.0%} of a training are computed"
        return "; ".join([f"store: {share}", *places])


def look_into_store(run: LoadedConfig, distiller: Distiller) -> Stored | None:
    """Looks up a sample of the views that training uses; returns None for a config without a store.

    Args:
        run: a run whose plan for the teachers and whose folder of the store are decided.
        distiller: the run's models; they are not changed.
    """
    spec = None if run.distill is None else run.distill.store
    if spec is None:
        return None
    remaining_stores = iter(teacher_stores(run, distiller))
    stores = [
        next(remaining_stores)
        if type(teacher) is Teacher and run.distillation.teacher(index).store is not None
        else None
        for index, teacher in enumerate(distiller.teachers)
    ]
    passes = passes_over_images(run.cfg)
    kept = 0.0 if spec.keep == "nothing" else _share_kept(run, distiller, stores, min(spec.views, passes))
    used_share = 1.0 if spec.keep == "nothing" else min(1.0, spec.views / passes)
    return Stored(stores, kept, (1 - kept) * used_share)


def _share_kept(run: LoadedConfig, distiller: Distiller, stores: Sequence[TeacherStore | None], views: float) -> float:
    cfg = prepare_config(run, Path("work_dirs", "store"), 0, None)
    dataset = DATASETS.build(copy.deepcopy(cfg.train_dataloader.dataset))
    random = np.random.default_rng(0)
    stored = 0
    for image in random.integers(len(dataset), size=SAMPLED_VIEWS):
        sample = dataset.view(int(image), int(random.integers(max(1, round(views)))))
        data = distiller.data_preprocessor(pseudo_collate([sample]), True)
        inputs, view_ids = data["inputs"], [data["data_samples"][0].metainfo.get(VIEW)]
        with autocast(cfg.optim_wrapper, inputs.device.type):
            stored += all(
                store.count_kept(inputs, view_ids, teacher.capture.names)
                for teacher, store in zip(distiller.teachers, stores, strict=True)
                if store is not None
            )
    return stored / SAMPLED_VIEWS
