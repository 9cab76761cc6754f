"""Synthetic fundus photographs in a folder: data for tests, demos and benchmarks.

What is in an image depends on (seed, split, index) and the size alone; see :mod:`rdistill.data.fundus`.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import cv2

from rdistill.data.fundus import SPLITS, draw_fundus
from rdistill.errors import UserError
from rdistill.files import write_json, write_whole

# Raise it with every change that alters a pixel: data of another version is then drawn anew.
VERSION = 1
_WHOLE = {".jpg": b"\xff\xd9", ".png": b"IEND\xaeB`\x82"}  # how a completely written file ends

_logger = logging.getLogger(__name__)


def generate(out_dir: Path, *, num_train: int = 200, num_val: int = 60, size: int = 256, seed: int = 0) -> None:
    """Write ``img_dir/{train,val}/NNNN.jpg`` and ``ann_dir/{train,val}/NNNN.png`` (0 background, 1 disc).

    Image k of a split depends on (seed, split, k) and ``size`` (pixels) alone, so larger counts only add
    images. Running again draws what is missing or cut short; other arguments replace our own old files.
    Raises ``UserError`` for arguments out of range and for a directory that holds anything not ours.
    """
    out_dir = Path(out_dir)
    _check_arguments(num_train=num_train, num_val=num_val, size=size, seed=seed)
    wanted = {"version": VERSION, "num_train": num_train, "num_val": num_val, "size": size, "seed": seed}
    found = _our_record(out_dir)
    if found is not None and found != wanted:
        _remove_stale(out_dir, found, wanted)
    if found != wanted:
        # Before the images: a killed run then leaves a directory known as ours, with files missing.
        _write_record(out_dir, wanted)
    drawn = 0
    for split, index, image_path, mask_path in _pairs(out_dir, wanted):
        if _is_whole(image_path) and _is_whole(mask_path):
            continue
        image, mask = draw_fundus(seed=seed, split=split, index=index, size=size)
        jpeg = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
        write_whole(image_path, jpeg.tobytes())
        write_whole(mask_path, cv2.imencode(".png", mask)[1].tobytes())
        drawn += 1
    if found != wanted or not (out_dir / "README.md").exists():
        write_whole(out_dir / "README.md", _readme(wanted))
    _logger.info("%s: drew %d of %d synthetic images", out_dir, drawn, num_train + num_val)


def _check_arguments(**arguments: int) -> None:
    lowest = {"num_train": 1, "num_val": 1, "size": 32, "seed": 0}
    problems = [
        f"synthetic data: {name} must be >= {lowest[name]}, got {value}; raise it"
        for name, value in arguments.items()
        if value < lowest[name]
    ]
    if problems:
        raise UserError(*problems)


def _pairs(out_dir: Path, record: dict[str, int]) -> Iterator[tuple[str, int, Path, Path]]:
    """Split, index, image path and mask path of everything ``record`` promises."""
    for split in SPLITS:
        for index in range(record[f"num_{split}"]):
            name = f"{index:04d}"
            image_path = out_dir / "img_dir" / split / f"{name}.jpg"
            yield split, index, image_path, out_dir / "ann_dir" / split / f"{name}.png"


def _our_record(out_dir: Path) -> dict[str, int] | None:
    """Arguments an earlier run left here, None in a new directory; ``UserError`` where others' files are.

    A stray image among ours is refused too: training reads every file of ``img_dir``.
    """
    if not out_dir.exists():
        return None
    fix = "choose an empty or new directory"
    if not out_dir.is_dir():
        raise UserError(f"{out_dir}: synthetic data need a directory, got a file; {fix}")
    try:
        record = json.loads((out_dir / "synthetic.json").read_text())
        ours = {path for pair in _pairs(out_dir, record) for path in pair[2:]}
        ours |= {out_dir / "synthetic.json", out_dir / "README.md"}
    except (OSError, ValueError, KeyError, TypeError):
        record, ours = None, set()
    for path in out_dir.rglob("*"):
        if path.is_file() and not path.name.startswith(".") and path not in ours:
            stray = path.relative_to(out_dir)
            raise UserError(f"{out_dir}: must hold synthetic data only, got {stray}; move it away or {fix}")
    return record


def _remove_stale(out_dir: Path, old: dict[str, int], new: dict[str, int]) -> None:
    """Remove our images that ``new`` does not contain; the record goes last, lest a kill orphan images."""
    same_eyes = all(old.get(key) == new[key] for key in ("version", "size", "seed"))
    kept = {path for pair in _pairs(out_dir, new) for path in pair[2:]} if same_eyes else set()
    _logger.warning("%s: replacing synthetic data made with %s", out_dir, old)
    for pair in _pairs(out_dir, old):
        for path in pair[2:]:
            if path not in kept:
                path.unlink(missing_ok=True)


def _write_record(out_dir: Path, record: dict[str, int]) -> None:
    write_json(out_dir / "synthetic.json", record)


def _is_whole(path: Path) -> bool:
    """Whether the file is there to its last byte, which a killed run's last file is not."""
    ending = _WHOLE[path.suffix]
    try:
        with path.open("rb") as file:
            file.seek(-len(ending), os.SEEK_END)
            return file.read() == ending
    except OSError:
        return False


def _readme(record: dict[str, int]) -> str:
    flags = " ".join(f"--{key.replace('_', '-')} {value}" for key, value in record.items() if key != "version")
    return f"""# Synthetic fundus photographs

Drawn by rdistill's generator, version {record["version"]}, seed {record["seed"]}; no patient data.

    rdistill data synthetic OUT {flags}

Train {record["num_train"]}, val {record["num_val"]} images of {record["size"]} x {record["size"]} pixels.
`img_dir/SPLIT/NNNN.jpg` is RGB, `ann_dir/SPLIT/NNNN.png` its exact mask: 0 background, 1 optic disc.
Each image depends on seed, split, number and size alone. Bright lesions, atrophy and lens flare are decoys;
some discs are dim, blurred or cut by the retina's rim.
"""
