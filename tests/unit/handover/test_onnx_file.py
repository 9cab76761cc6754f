"""Masks on their way back to an image's size, and timing in turns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from mmseg.structures import SegDataSample
from torch import nn

from rdistill.handover import onnx_file
from rdistill.handover.onnx_file import OnnxFile, OnnxSegmentor, interleaved_ms, latency_line


def test_padding_goes_and_the_nearest_pixel_comes() -> None:
    """An image of 2 x 3, padded to 4 x 4 at the right and below, from a photograph of 4 x 6."""
    given: list[tuple[int, ...]] = []

    def run(x: np.ndarray) -> np.ndarray:
        given.append(x.shape)
        return np.arange(16, dtype=np.int64).reshape(1, 4, 4)

    sample = SegDataSample(metainfo=dict(ori_shape=(4, 6), img_padding_size=(0, 1, 0, 2)))
    segmentor = OnnxSegmentor(OnnxFile(run, "mask", None), nn.Identity())
    (result,) = segmentor.predict(torch.zeros(1, 3, 4, 4), [sample])
    expected = np.repeat(np.repeat([[0, 1, 2], [4, 5, 6]], 2, axis=0), 2, axis=1)
    assert np.array_equal(result.pred_sem_seg.data[0], expected)
    assert given == [(1, 3, 4, 4)] and segmentor.resized == ((2, 3), (4, 6))


def test_a_file_of_one_size_is_given_that_size() -> None:
    given: list[tuple[int, ...]] = []

    def run(x: np.ndarray) -> np.ndarray:
        given.append(x.shape)
        return np.ones((1, 8, 16), np.int64)

    sample = SegDataSample(metainfo=dict(ori_shape=(4, 4)))
    (result,) = OnnxSegmentor(OnnxFile(run, "mask", (8, 16)), nn.Identity()).predict(torch.zeros(1, 3, 4, 4), [sample])
    assert given == [(1, 3, 8, 16)] and result.pred_sem_seg.data.shape == (1, 4, 4)


def test_calls_take_turns() -> None:
    order: list[Any] = []
    times = interleaved_ms({name: lambda name=name: order.append(name) for name in "ab"})  # type: ignore[misc]
    assert list(times) == ["a", "b"] and order == ["a", "b"] * (len(order) // 2) and len(order) > 10


def test_a_busy_machine_is_said_beside_the_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file.os, "sched_getaffinity", lambda _: {0, 1})
    for load, said in ((1.9, ""), (9.84, "; the machine was busy: load 9.8 on 2 cores")):
        monkeypatch.setattr(onnx_file.os, "getloadavg", lambda load=load: (load, 0.0, 0.0))
        assert latency_line({"PyTorch": 4.26}, (32, 64), 1) == (
            "latency", f"PyTorch 4.3 ms (medians of 20 in turns, batch 1, 32 x 64, CPU, 1 thread{said})",
        )  # fmt: skip
