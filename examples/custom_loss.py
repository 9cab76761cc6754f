"""A loss of your own (examples/own_loss.py) beside KL: the same student, the same batches, two losses.

Run it: python examples/custom_loss.py

`custom_imports` names the module, which every process that trains imports: its folder must be in PYTHONPATH on every
machine. Here it is this file's folder. docs/adding.md says what else a loss may declare.
"""

from __future__ import annotations

import os
from pathlib import Path

import shared

import rdistill

here = str(Path(__file__).parent)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))

losses = {
    "KL": {"type": "KL", "on": "logits", "weight": 0.5},
    "HardPixelKL": {"type": "HardPixelKL", "on": "logits", "weight": 0.5, "share": 0.2},
}
scores = {}
for name, loss in losses.items():
    overrides = {"+custom_imports": {"imports": ["own_loss"]}, "distill.losses": {"logits": loss}}
    metrics = rdistill.train(
        shared.DISTILL,
        shared.fresh(f"custom-loss/{name}"),
        overrides=overrides,
        data_root=shared.images(),
        teacher_checkpoint=shared.teacher(),
        **shared.SHORT,
    )
    scores[name] = metrics["mIoU"]
for name, score in scores.items():
    print(f"{name:12} {score:.1f} mIoU")
print("One seed each, so a difference of a few points is no result: docs/proof.md says what is.")
