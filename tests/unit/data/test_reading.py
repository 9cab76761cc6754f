"""Images and masks are opened as a pipeline opens them: sizes from headers, damaged files, values as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rdistill.data.reading import Loaders

WIDTH, HEIGHT = 40, 24
PLAIN: list[dict[str, Any]] = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}, {"type": "PackSegInputs"}]


@pytest.fixture
def entry(tmp_path: Path) -> dict[str, Any]:
    """Of a dataset's list: a photograph and its mask of classes 0 to 3, as a palette."""
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg")
    mask = Image.fromarray(np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint8) % 4)
    mask.putpalette([10, 20, 30] * 4)
    mask.save(tmp_path / "a.png")
    return {"img_path": str(tmp_path / "a.jpg"), "seg_map_path": str(tmp_path / "a.png"), "reduce_zero_label": False,
            "label_map": None, "seg_fields": []}  # fmt: skip


def test_which_steps_read() -> None:
    loaders = Loaders(PLAIN)
    assert loaders.image is not None and loaders.mask is not None and loaders.plain_masks and loaders.local
    mapped = Loaders([PLAIN[0], {"type": "MapLabels", "label_map": [(7, 1), (9, 2)]}, *PLAIN[1:]])
    assert mapped.label_map == {7: 1, 9: 2}
    remote = Loaders([{**PLAIN[0], "backend_args": {"backend": "petrel"}}])
    assert not remote.local and remote.mask is None and not remote.plain_masks


@pytest.mark.parametrize("decode", [True, False])
def test_the_size_of_an_image_is_that_of_its_header(entry: dict[str, Any], decode: bool) -> None:
    assert Loaders(PLAIN).image_size(entry, decode=decode) == (WIDTH, HEIGHT)
    assert Loaders(PLAIN).mask_size(entry) == (WIDTH, HEIGHT)


def test_a_photograph_that_is_turned_has_the_size_that_the_pipeline_gives_it(entry: dict[str, Any]) -> None:
    """mmcv's step turns it as its tag says, unless it was told not to."""
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    with Image.open(entry["img_path"]) as image:
        image.save(entry["img_path"], exif=exif)
    assert Loaders(PLAIN).image_size(entry, decode=False) == (HEIGHT, WIDTH)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp"])
def test_a_file_that_ends_early_is_found_where_it_is_decoded(
    entry: dict[str, Any], tmp_path: Path, suffix: str
) -> None:
    """OpenCV would make a whole image of it, grey where it ends."""
    whole = tmp_path / f"whole{suffix}"
    with Image.open(entry["img_path"]) as image:
        image.save(whole)
    short = tmp_path / f"short{suffix}"
    short.write_bytes(whole.read_bytes()[: whole.stat().st_size * 4 // 5])
    loaders = Loaders(PLAIN)
    assert loaders.image_size({**entry, "img_path": str(short)}, decode=False) == (WIDTH, HEIGHT)
    with pytest.raises(Exception, match=r"(?i)truncated|broken|ended"):
        loaders.image_size({**entry, "img_path": str(short)}, decode=True)
    assert loaders.image_size({**entry, "img_path": str(whole)}, decode=True) == (WIDTH, HEIGHT)


def test_the_values_of_a_mask_are_those_of_the_file(entry: dict[str, Any]) -> None:
    """A palette's indices, not its colours; whatever type the file has."""
    loaders = Loaders(PLAIN)
    expected = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 4
    pillow = Loaders([PLAIN[0], {"type": "LoadAnnotations", "imdecode_backend": "pillow"}])
    assert np.array_equal(pillow.labels(entry), expected)
    Image.fromarray((expected * 1000).astype(np.uint16)).save(entry["seg_map_path"])
    assert np.array_equal(loaders.labels(entry), expected * 1000)


def test_a_step_of_another_kind_gives_what_it_makes(entry: dict[str, Any]) -> None:
    from mmcv.transforms import LoadAnnotations

    from rdistill.models.quiet_mmseg import TRANSFORMS

    class LoadHalvedAnnotations(LoadAnnotations):
        def transform(self, results: dict[str, Any]) -> dict[str, Any]:
            return {**results, "gt_seg_map": np.full((2, 2), 5)}

    TRANSFORMS.register_module(module=LoadHalvedAnnotations, force=True)
    loaders = Loaders([PLAIN[0], {"type": "LoadHalvedAnnotations"}])
    assert not loaders.plain_masks and loaders.labels(entry).tolist() == [[5, 5], [5, 5]]


def test_what_is_no_image_is_refused(entry: dict[str, Any]) -> None:
    Path(entry["seg_map_path"]).write_bytes(b"no image")
    with pytest.raises(Exception, match="cannot identify"):
        Loaders(PLAIN).labels(entry)
