"""Images for the report: the errors of a sweep's best student, its baseline and the teacher on validation images.

They are drawn once, at the end of a sweep, so that the report can show them without torch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, cast

import numpy as np
import ray
from mmengine.config import Config

from rdistill.config.load import import_custom_modules
from rdistill.config.walk import first_leaf
from rdistill.core.errors import cause_of
from rdistill.core.files import write_json, written_whole
from rdistill.core.storage import join, open_work_dir
from rdistill.data.images import as_rgb, loads_bgr
from rdistill.schemas.data import DatasetMeta, Packed
from rdistill.schemas.mappings import PlainConfig
from rdistill.schemas.pictures import ChosenImage, ImageScores, Pictures
from rdistill.sweeps.study.records import CONFIRMED, TRIALS, TrialRecord, load_records, never_trained, ranked
from rdistill.sweeps.trial.trial import Study, reason_of
from rdistill.training.ray_train import Resources

if TYPE_CHECKING:
    from torch import nn

PICTURES = "pictures"  # a folder in the work dir, with the PNG files and INDEX
INDEX = "pictures.json"
MAX_IMAGES = 100  # the largest number of validation images, evenly spread over the data set, that are scored one by one
LONGEST_SIDE = 1024  # pixels of the longer side of a drawn image
TIME_LIMIT_S = 1800
OPACITY = 0.55  # opacity of a class's colour over the photograph
# Colours of pixels that the best student, the baseline or both get wrong: Okabe and Ito's orange and blue, and grey.
ONLY_BEST, ONLY_BASELINE, BOTH = (213, 94, 0), (0, 114, 178), (95, 95, 95)


def draw_pictures(study: Study, resources: Resources, folder: Path) -> str:
    """Draws the worst, the median and the best validation image of the best student, each as several PNG files.

    They go to the folder ``pictures/``, where ``pictures.json`` lists the files and the mIoU of every image. An error
    does not make the sweep fail.

    Args:
        study: the sweep's study; its work dir may be at a URI.
        resources: resources of one trial.
        folder: the work dir on this machine, with the trials' records.

    Returns:
        The reason in one line if nothing was drawn; otherwise an empty text.
    """
    records = load_records(folder)
    best, baseline = typical_pair(records)
    (folder / PICTURES).mkdir(exist_ok=True)
    index = folder / PICTURES / INDEX
    if best is None:
        reason = "no student under a teacher has a score"
    else:
        try:
            write_json(index, _drawn(study, resources, best.id, baseline.id if baseline is not None else None))
            return ""
        except Exception as error:  # no error may fail the sweep, whose trials are all done
            reason = reason_of(cause_of(error))
    write_json(index, {"reason": reason})
    return reason


def _drawn(study: Study, resources: Resources, best: str, baseline: str | None) -> Pictures:
    """Draws the images on a GPU if trials have one, otherwise in this process. Returns the content of pictures.json."""
    need = resources.per_worker()
    if not need.get("GPU"):
        return _draw(study, best, baseline)
    task = ray.remote(_draw).options(num_cpus=need["CPU"], num_gpus=need["GPU"])
    pending = task.remote(study, best, baseline)
    try:
        pictures: Pictures = ray.get(pending, timeout=TIME_LIMIT_S)
        return pictures
    except Exception:
        ray.cancel(pending, force=True)
        raise


def typical_pair(records: Sequence[TrialRecord]) -> tuple[TrialRecord | None, TrialRecord | None]:
    """The best student under a teacher and the student alone that it is compared with.

    After a confirmation, they are the runs of the configuration with the highest mean, on the seed with the median
    gain. Runs that never left one class are not shown; a student without such a baseline is shown by itself.
    """
    stuck = never_trained(records)
    scored = [record for record in records if record.best and record.id not in stuck]
    done: defaultdict[str, dict[int, TrialRecord]] = defaultdict(dict)
    alone: dict[int, TrialRecord] = {}
    for record in scored:
        if record.phase == CONFIRMED and record.status == "finished":
            (alone if record.is_baseline else done[record.of])[record.seed] = record
    pairs = {name: sorted(runs.keys() & alone.keys()) for name, runs in done.items()}
    if any(pairs.values()):
        runs = max((done[name] for name in done if pairs[name]), key=lambda group: mean(map(_score, group.values())))
        paired = sorted(runs.keys() & alone.keys(), key=lambda seed: _score(runs[seed]) - _score(alone[seed]))
        seed = paired[len(paired) // 2]
        return runs[seed], alone[seed]
    searched = ranked(record for record in scored if record.searched)
    best = next((record for record in searched if not record.is_baseline), None)
    if best is None:  # if all students never left one class, show the best of them: the reader then sees just that
        best = next((record for record in ranked(records) if record.best and not record.is_baseline), None)
    return best, next((record for record in searched if record.is_baseline), None)


def image_iou(predicted: np.ndarray, truth: np.ndarray, num_classes: int, ignore: int = 255) -> float | None:
    """mIoU in percent of one image, over the classes in its mask or its prediction; None if all pixels are ignored.

    Args:
        predicted, truth: class indices, height x width.
        num_classes: number of classes.
        ignore: index of ignored pixels in ``truth``.
    """
    seen = truth != ignore
    pairs = truth[seen].astype(np.int64) * num_classes + predicted[seen]
    matrix = np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
    union = matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
    occurs = union > 0
    return float((matrix.diagonal()[occurs] / union[occurs]).mean() * 100) if occurs.any() else None


def overlay(photo: np.ndarray, mask: np.ndarray, palette: np.ndarray, ignore: int = 255) -> np.ndarray:
    """Draws classes in their colours over a photograph (height x width x 3, RGB); a black class is not drawn."""
    labelled = mask != ignore
    colours = palette[np.where(labelled, mask, 0)]
    shown = labelled & (colours.sum(-1) > 0)
    mixed = photo * (1 - OPACITY) + colours * OPACITY
    return np.where(shown[..., None], mixed, photo).round().astype(np.uint8)


def errors(photo: np.ndarray, wrong: np.ndarray, wrong_alone: np.ndarray | None) -> np.ndarray:
    """Draws wrong pixels over a pale photograph.

    Args:
        photo: height x width x 3, RGB.
        wrong, wrong_alone: wrong pixels (height x width, bool) of the best student and of the baseline, if any.
    """
    pale = 255 - (255 - photo.mean(-1, keepdims=True)) * 0.35
    picture = np.repeat(pale, 3, axis=-1)
    alone = np.zeros_like(wrong) if wrong_alone is None else wrong_alone
    for pixels, colour in ((wrong & ~alone, ONLY_BEST), (alone & ~wrong, ONLY_BASELINE), (wrong & alone, BOTH)):
        picture[pixels] = colour
    return picture.round().astype(np.uint8)


def _score(record: TrialRecord) -> float:
    return float(record.best["mIoU"])


def _draw(study: Study, best: str, baseline: str | None) -> Pictures:
    """Writes the PNG files and returns the content of pictures.json. It runs on any node, also with a URI."""
    with open_work_dir(join(study.work_dir, PICTURES)) as here:
        index = _draw_into(here.folder, study, best, baseline)
        here.push()
    return index


@dataclass(frozen=True)
class _Row:
    """The scores of one validation image."""

    index: int  # index in the data set
    name: str
    scores: dict[str, float | None]  # model -> mIoU in percent; None if all pixels are ignored

    def as_json(self) -> ImageScores:
        return cast(ImageScores, {"name": self.name, **self.scores})


def _draw_into(folder: Path, study: Study, best: str, baseline: str | None) -> Pictures:
    import torch

    from rdistill.handover.onnx_file import busy_machine
    from rdistill.models.quiet_mmseg import DATASETS
    from rdistill.models.segmentor import ignore_index
    from rdistill.sweeps.trial.complexity import device_name, sizes_of, test_size

    base = study.base.cfg
    import_custom_modules(base)
    models = _models(study, best, baseline)
    dataset = DATASETS.build(base.val_dataloader.dataset.to_dict())
    pipeline = first_leaf(base.val_dataloader.dataset)["pipeline"]  # the pipeline that reads the image files
    classes = list(dataset.metainfo["classes"])
    ignore = ignore_index(models["best"])
    indices = np.unique(np.linspace(0, len(dataset) - 1, min(len(dataset), MAX_IMAGES)).round().astype(int)).tolist()
    rows: list[_Row] = []
    with torch.no_grad():
        for index in indices:
            masks = _masks(dataset[index], models)
            scores = {
                name: image_iou(mask, masks["truth"], len(classes), ignore)
                for name, mask in masks.items()
                if name != "truth"
            }
            rows.append(_Row(index, Path(dataset.get_data_info(index)["img_path"]).name, scores))
        scored = [(score, row) for row in rows if (score := row.scores["best"]) is not None]
        order = [row for _, row in sorted(scored, key=lambda pair: pair[0])]
        ranks = {0: "worst", len(order) // 2: "median", len(order) - 1: "best"} if order else {}
        palette = _palette(dataset.metainfo, len(classes))
        chosen: list[ChosenImage] = []
        for rank, which in ranks.items():
            row = order[rank]
            sample = dataset[row.index]
            drawn = _picture(_photo(sample, bgr=loads_bgr(pipeline)), _masks(sample, models), palette, ignore)
            files = _write(folder, which, drawn)
            scores = {name: row.scores[name] for name in models}
            chosen.append({"which": which, "name": row.name, "files": files, "IoU": scores})
    return {
        "best": best,
        "baseline": baseline,
        "images": len(dataset),
        "scored": len(rows),
        "classes": classes,
        "palette": palette.tolist(),
        "chosen": chosen,
        "per_image": [row.as_json() for row in rows],
        "models": sizes_of(models, test_size(base)),
        "busy": busy_machine(),
        "size": list(test_size(base)),
        "device": device_name(),
    }


def _models(study: Study, best: str, baseline: str | None) -> dict[str, nn.Module]:
    """The two students, and the first teacher if it has weights of its own and gives logits, in eval mode."""
    from rdistill.distill.teacher import load_teacher_model
    from rdistill.models.segmentor import gives_logits

    models: dict[str, nn.Module] = {}
    first = study.base.distillation.teachers[0]
    if not first.follows_student and first.model is not None:
        teacher = load_teacher_model(first, trust_checkpoint=study.trust_checkpoint)
        if gives_logits(teacher):
            models["teacher"] = _ready(teacher)
    for kind, name in (("baseline", baseline), ("best", best)):
        if name is not None:
            with open_work_dir(join(study.work_dir, TRIALS, name), "trial.py", "best.pth") as here:
                model_cfg = Config.fromfile(str(here.folder / "trial.py")).model.to_dict()
                models[kind] = _model(kind, model_cfg, here.folder / "best.pth")
    return models


def _model(kind: str, model_cfg: PlainConfig, weights: str | Path) -> nn.Module:
    from mmengine.model import revert_sync_batchnorm

    from rdistill.models import checkpoint
    from rdistill.models.segmentor import build_segmentor

    model = revert_sync_batchnorm(build_segmentor(model_cfg, what=kind))
    checkpoint.load_weights(model, weights, what=kind)
    return _ready(model)


def _ready(model: nn.Module) -> nn.Module:
    import torch

    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def _masks(sample: Packed, models: Mapping[str, nn.Module]) -> dict[str, np.ndarray]:
    """Class indices (height x width) of the ground truth and of each model's prediction."""
    from mmengine.dataset import pseudo_collate

    masks = {"truth": sample["data_samples"].gt_sem_seg.data[0].cpu().numpy()}
    for name, model in models.items():
        (result,) = model.val_step(pseudo_collate([sample]))
        # mmseg gives floats for a head with one channel and a threshold.
        masks[name] = result.pred_sem_seg.data[0].cpu().numpy().astype(np.int64)
    return masks


def _photo(sample: Packed, *, bgr: bool) -> np.ndarray:
    """The image in RGB, as the dataset loaded it, at the size of its mask.

    Args:
        sample: a sample of the dataset; its ``inputs`` are bands x height x width.
        bgr: the same as for :func:`rdistill.data.images.as_rgb`.
    """
    from PIL import Image

    rgb = as_rgb(sample["inputs"].numpy().transpose(1, 2, 0), bgr=bgr)
    height, width = sample["data_samples"].gt_sem_seg.data.shape[-2:]
    return np.asarray(Image.fromarray(rgb).resize((width, height)))


def _picture(
    photo: np.ndarray, masks: Mapping[str, np.ndarray], palette: np.ndarray, ignore: int
) -> dict[str, np.ndarray]:
    counts = masks["truth"] != ignore
    wrong = {name: (mask != masks["truth"]) & counts for name, mask in masks.items()}
    panels = {name: overlay(photo, mask, palette, ignore) for name, mask in masks.items()}
    return {"image": photo, **panels, "difference": errors(photo, wrong["best"], wrong.get("baseline"))}


def _write(folder: Path, which: str, panels: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Writes a PNG for each panel. Returns panel -> file name."""
    from PIL import Image

    files = {}
    for kind, pixels in panels.items():
        image = Image.fromarray(pixels)
        image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        files[kind] = f"{which}-{kind}.png"
        with written_whole(folder / files[kind]) as partial:
            image.save(partial, "PNG")
    return files


def _palette(metainfo: DatasetMeta, num_classes: int) -> np.ndarray:
    """A colour for each class: those of the dataset, or random ones with black for the first class if it has none."""
    own = metainfo.get("palette")
    if own is not None and len(own) >= num_classes:
        return np.array(own[:num_classes])
    colours = np.random.default_rng(0).integers(60, 256, (num_classes, 3))
    colours[0] = 0
    return colours
