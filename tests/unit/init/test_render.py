"""Masks of colours and of many numbers, drawn once as class numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from init_folders import colors, mmseg
from init_samples import samples

from rdistill.init.data import read_data


def test_names_and_a_table_of_colours_are_taken(tmp_path: Path) -> None:
    mmseg(tmp_path / "a")
    assert read_data(tmp_path / "a", tmp_path / "out", classes=["x", "y", "z"]).labels.classes == ("x", "y", "z")
    (tmp_path / "a/classes.txt").write_text("sky\nroad\ncar\n")
    assert read_data(tmp_path / "a", tmp_path / "out").labels.classes == ("sky", "road", "car")
    colors(tmp_path / "b", table=False)
    table = tmp_path / "table.txt"
    table.write_text("0 0 0 Void\n128 64 128\tRoad\n220 20 60\tPerson\n")
    data = read_data(tmp_path / "b", tmp_path / "b_out", colors=table)
    assert data.labels.classes == ("Road", "Person")
    present = {int(value) for sample in samples(data, tmp_path / "b", "train")
               for value in np.unique(sample["gt_seg_map"])}  # fmt: skip
    assert present == {0, 1, 255}
