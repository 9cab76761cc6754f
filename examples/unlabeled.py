"""Few masks, many images: a teacher says something of images that nobody has labelled.

Run it: python examples/unlabeled.py

The first 12 training images keep their masks. The second student also learns from its teacher on all images of the
folder, without looking at a mask. docs/unlabeled.md has every setting.
"""

from __future__ import annotations

import shared

import rdistill

data = shared.images()
few = {"+train_dataloader.dataset.indices": 12}
without_masks = {"img_dir": str(data / "img_dir" / "train"), "per_batch": 4, "min_confidence": 0.8}
options = dict(data_root=data, teacher_checkpoint=shared.teacher(), **shared.SHORT)

labelled = rdistill.train(shared.DISTILL, shared.fresh("unlabeled/labelled"), overrides=few, **options)
both = rdistill.train(
    shared.DISTILL,
    shared.fresh("unlabeled/both"),
    overrides={**few, "+distill.unlabeled": without_masks},
    **options,
)
print(f"12 masks                          {labelled['mIoU']:.1f} mIoU")
print(f"12 masks and images without masks {both['mIoU']:.1f} mIoU")
