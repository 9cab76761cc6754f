"""A model of Hugging Face transformers as the teacher of a student of mmseg.

Run it: python examples/hugging_face_teacher.py [FOLDER_OR_HUB_ID]

FOLDER_OR_HUB_ID is what `from_pretrained` takes. Without one, a small SegFormer with random weights is saved first:
it shows how the files fit together, and teaches nothing. `pip install 'rdistill[teachers]'`; docs/teacher.md has the
kinds of models.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import shared

import rdistill


def a_segformer() -> Path:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    folder = shared.WORK / "segformer"
    names = {0: "background", 1: "optic disc"}  # which class is which: rdistill compares them with the student's
    config = SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 8, 16, 16],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
        id2label=names,
        label2id={name: index for index, name in names.items()},
    )
    SegformerForSemanticSegmentation(config).save_pretrained(folder)
    normalisation = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    (folder / "preprocessor_config.json").write_text(json.dumps(normalisation))
    return folder


path = sys.argv[1] if len(sys.argv) > 1 else str(a_segformer())
section = {"teachers": [{"type": "hf", "path": path}], "losses": {"logits": {"type": "KL", "weight": 3.0}}}
metrics = rdistill.train(
    shared.STUDENT,
    shared.fresh("from-hugging-face"),
    overrides={"+distill": section},
    data_root=shared.images(),
    **shared.SHORT,
)
teacher = metrics["teacher_mIoU"]
print(f"student {metrics['mIoU']:.1f} mIoU; teacher {'without a score' if teacher is None else f'{teacher:.1f} mIoU'}")
