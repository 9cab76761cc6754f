"""How much of what a sweep will need its store has already: looked up for a few views."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mmengine.dataset import pseudo_collate

from rdistill.checks.store import describe_places, passes_of, stores_of
from rdistill.config.load import LoadedConfig
from rdistill.data.datasets import VIEW
from rdistill.distill.distiller import Distiller
from rdistill.distill.teacher import Teacher
from rdistill.distill.teacher_store import TeacherStore
from rdistill.models.precision import autocast
from rdistill.models.quiet_mmseg import DATASETS
from rdistill.training.runner import prepare_config

SAMPLED = 32  # views that are looked up: augmenting them takes a moment


@dataclass(frozen=True)
class Stored:
    """What a store has of a config's views.

    Attributes:
        stores: one for each teacher; None for one whose outputs are not kept.
        kept: share of the views that it has, of a sample; 0 to 1.
        computed: share of the images of one training that its teachers will run on, if no other fills it meanwhile.
    """

    stores: Sequence[TeacherStore | None]
    kept: float
    computed: float

    @property
    def line(self) -> str:
        """For the user."""
        places = dict.fromkeys(describe_places(store.places) for store in self.stores if store is not None)
        share = f"about {self.kept:.0%} of the views are there; {self.computed:.0%} of a training are computed"
        return "; ".join([f"store: {share}", *places])


def look_into_store(run: LoadedConfig, distiller: Distiller) -> Stored | None:
    """Looks up a few of the views that training takes; None for a config without a store.

    Args:
        run: with the teachers' forward and the store's place decided.
        distiller: its models; left as they are.
    """
    spec = None if run.distill is None else run.distill.store
    if spec is None:
        return None
    own = iter(stores_of(run, distiller))
    stores = [
        next(own) if type(teacher) is Teacher and run.distillation.teacher(index).store is not None else None
        for index, teacher in enumerate(distiller.teachers)
    ]
    passes = passes_of(run.cfg)
    kept = 0.0 if spec.keep == "nothing" else _share_kept(run, distiller, stores, min(spec.views, passes))
    again = 1.0 if spec.keep == "nothing" else min(1.0, spec.views / passes)
    return Stored(stores, kept, (1 - kept) * again)


def _share_kept(
    run: LoadedConfig, distiller: Distiller, stores: Sequence[TeacherStore | None], most_views: float
) -> float:
    cfg = prepare_config(run, Path("work_dirs", "store"), 0, None)
    dataset = DATASETS.build(copy.deepcopy(cfg.train_dataloader.dataset))
    random = np.random.default_rng(0)
    there = 0
    for image in random.integers(len(dataset), size=SAMPLED):
        sample = dataset.view(int(image), int(random.integers(max(1, round(most_views)))))
        data = distiller.data_preprocessor(pseudo_collate([sample]), True)
        inputs, views = data["inputs"], [data["data_samples"][0].metainfo.get(VIEW)]
        with autocast(cfg.optim_wrapper, inputs.device.type):
            there += all(
                store.count_kept(inputs, views, teacher.capture.names)
                for teacher, store in zip(distiller.teachers, stores, strict=True)
                if store is not None
            )
    return there / SAMPLED
