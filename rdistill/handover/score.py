"""Scores an exported file on the config's data (`rdistill eval OUT.onnx`), and the PyTorch student for comparison."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm

from rdistill.handover.export import Network
from rdistill.handover.inference import load_predictor
from rdistill.handover.onnx_file import OnnxSegmentor, interleaved_ms, latency_line
from rdistill.handover.openvino_file import open_in
from rdistill.handover.reduce import MAX_DROP
from rdistill.models.segmentor import build_segmentor
from rdistill.schemas.run import Scores
from rdistill.training.run import evaluate_model


@dataclass(frozen=True)
class ScoredFile:
    """Scores of an exported file and, if there is a checkpoint, of the student in PyTorch."""

    file: Path
    scores: Scores
    megabytes: float
    checkpoint: Path | None
    pytorch: Scores | None
    runtime: str  # runtime of `scores`: 'onnxruntime' or 'openvino'
    onnxruntime: Scores | None  # scores in onnxruntime, if `runtime` is another one
    latency_ms: dict[str, float]  # 'PyTorch' (with a checkpoint) and each runtime, measured in turns with batch 1
    timed_size: tuple[int, int]  # height and width of the network's input
    threads: int
    notes: list[str] = field(default_factory=list)  # differences between the compared models besides precision


def score_file(
    cfg: Config,
    file: Path,
    checkpoint: str | Path | None,
    *,
    split: str = "val",
    trust_checkpoint: bool = False,
    runtime: str = "onnxruntime",
) -> ScoredFile:
    """Scores an ONNX file on a config's ``val`` or ``test`` split, with the config's own pipeline and metric.

    Args:
        cfg: the student's loaded config with its data.
        file: a file that `rdistill export` has written.
        checkpoint: the student's checkpoint, which is scored and timed too; None skips that.
        split, trust_checkpoint: as for :func:`rdistill.training.run.evaluate_checkpoint`.
        runtime: ``onnxruntime``, or ``openvino``, with which the file is scored and timed in both.

    Raises:
        UserError: a runtime cannot open the file, the checkpoint does not fit, the split cannot be scored.
    """
    files = {name: open_in(name, file) for name in dict.fromkeys(("onnxruntime", runtime))}
    pytorch = None
    if checkpoint is None:
        model = revert_sync_batchnorm(build_segmentor(cfg.model, trust_checkpoint=trust_checkpoint)).eval()
    else:
        model = load_predictor(cfg, checkpoint, trust_checkpoint=trust_checkpoint).model
        pytorch = evaluate_model(model, cfg, split=split)
    scores: dict[str, Scores] = {}
    for name, opened in files.items():
        segmentor = OnnxSegmentor(opened, model)
        scores[name] = evaluate_model(segmentor, cfg, split=split)
    image = segmentor.first
    assert image is not None, "a split without images was refused before"
    network, array = Network(model.cpu(), files[runtime].output).eval(), image.numpy()
    calls: dict[str, Callable[[], Any]] = {"PyTorch": lambda: network(image)} if checkpoint is not None else {}
    with torch.no_grad():
        runs = {name: lambda run=opened.run: run(array) for name, opened in files.items()}  # type: ignore[misc]
        latency = interleaved_ms({**calls, **runs})
    return ScoredFile(
        file=file,
        scores=scores[runtime],
        megabytes=file.stat().st_size / 1e6,
        checkpoint=None if checkpoint is None else Path(checkpoint),
        pytorch=pytorch,
        runtime=runtime,
        onnxruntime=scores["onnxruntime"] if runtime != "onnxruntime" else None,
        latency_ms=latency,
        timed_size=(int(image.shape[2]), int(image.shape[3])),
        threads=torch.get_num_threads(),
        notes=list(_notes(cfg, segmentor)),
    )


def _notes(cfg: Config, segmentor: OnnxSegmentor) -> Iterator[str]:
    """Yields reasons why the scores differ besides the precision of the file."""
    if (cfg.model.get("test_cfg") or {}).get("mode") == "slide":
        yield "the config tests with sliding windows, which only PyTorch does: the file gets whole images"
    if segmentor.resized is not None:
        inside, image = (" x ".join(map(str, size)) for size in segmentor.resized)
        yield (
            f"the file's masks of {inside} are resized to the image's {image} by the nearest pixel; PyTorch resizes "
            "logits, and so does a file of `export --output logits`"
        )


def lines(scored: ScoredFile) -> Iterator[tuple[str, str]]:
    """Yields (topic, text) for each line that the command prints below the scores."""
    if scored.pytorch is not None:
        difference = scored.scores["mIoU"] - scored.pytorch["mIoU"]
        yield (
            "PyTorch",
            f"mIoU {scored.pytorch['mIoU']:.2f}  aAcc {scored.pytorch['aAcc']:.2f}  ({scored.checkpoint}): "
            f"the file's mIoU is {difference:+.2f} from it",
        )
    if scored.onnxruntime is not None:
        difference = scored.scores["mIoU"] - scored.onnxruntime["mIoU"]
        yield (
            "runtimes",
            f"{scored.runtime} mIoU {scored.scores['mIoU']:.2f}, onnxruntime {scored.onnxruntime['mIoU']:.2f}: "
            f"{difference:+.2f}",
        )
        if abs(difference) > MAX_DROP:
            yield (
                "warning",
                f"{scored.runtime} computes something else than onnxruntime, by which the file was checked: do not "
                "ship it there; `export --fixed-size HxW` may do, as no size is read inside such a file",
            )
    yield latency_line(scored.latency_ms, scored.timed_size, scored.threads)
    yield "file", f"{scored.file}: {scored.megabytes:.2f} MB"
    for note in scored.notes:
        yield "note", note


def as_plain(scored: ScoredFile) -> Mapping[str, Any]:
    """Returns the scores like `rdistill eval` does for a checkpoint, with further keys, for ``--json``."""
    return {
        **scored.scores,
        "file": str(scored.file),
        "megabytes": scored.megabytes,
        "checkpoint": None if scored.checkpoint is None else str(scored.checkpoint),
        "pytorch": scored.pytorch,
        "runtime": scored.runtime,
        "onnxruntime": scored.onnxruntime,
        "latency_ms": scored.latency_ms,
        "timed_size": list(scored.timed_size),
        "threads": scored.threads,
        "notes": scored.notes,
    }
