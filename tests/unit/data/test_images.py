"""What a person is shown of an image of any number of bands, of 8 bits or more."""

from __future__ import annotations

import numpy as np
import pytest

from rdistill.data.images import as_rgb, loading_steps, loads_bgr


def test_eight_bits_are_shown_as_they_are() -> None:
    pixels = np.arange(2 * 3 * 5, dtype=np.uint8).reshape(2, 3, 5)
    assert np.array_equal(as_rgb(pixels, bgr=False), pixels[..., :3])
    assert np.array_equal(as_rgb(pixels, bgr=True), pixels[..., 2::-1])
    assert np.array_equal(as_rgb(pixels.astype(np.float32), bgr=False), pixels[..., :3])  # `to_float32`


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 1), (2, 3, 2)], ids=str)
def test_one_and_two_bands_are_grey(shape: tuple[int, ...]) -> None:
    pixels = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    first = pixels if pixels.ndim == 2 else pixels[..., 0]
    assert np.array_equal(as_rgb(pixels, bgr=True), np.stack([first] * 3, axis=-1))


@pytest.mark.parametrize("scale", [1 / 255, 16, 257], ids=["0 to 1", "12 bits", "16 bits"])
def test_other_ranges_are_stretched(scale: float) -> None:
    """A cast to uint8 would keep the lower byte, and be noise."""
    ramp = np.linspace(0, 255, 101)[None].repeat(3, axis=0)
    drawn = as_rgb((ramp * scale).astype(np.float32 if scale < 1 else np.uint16), bgr=False)[0, :, 0].astype(int)
    assert drawn[0] == 0 and drawn[-1] == 255 and (np.diff(drawn) >= 0).all()
    assert abs(drawn - ramp[0]).max() <= 5  # but for a percent at each end


def test_values_that_are_no_numbers_are_drawn_all_the_same() -> None:
    pixels = np.full((4, 4, 3), 0.5, np.float32)
    pixels[0, 0], pixels[1, 1] = np.nan, np.inf
    assert as_rgb(pixels, bgr=False).dtype == np.uint8
    assert as_rgb(np.full((4, 4), 7000, np.uint16), bgr=False).shape == (4, 4, 3)  # nothing to stretch


def test_which_steps_read_and_in_which_order() -> None:
    file, resize = {"type": "LoadImageFromFile"}, {"type": "Resize"}
    assert loading_steps([file, resize]) == 1 and loading_steps([file, {"type": "LoadDepth"}, resize]) == 2
    assert loading_steps([{"type": "MyReader"}, resize]) == 1
    assert loads_bgr([file]) and loads_bgr([{**file, "imdecode_backend": "pillow"}])
    assert not loads_bgr([{**file, "imdecode_backend": "tifffile"}])
    assert not loads_bgr([{"type": "mmseg.LoadSingleRSImageFromFile"}])
