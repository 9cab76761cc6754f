"""A teacher and a student small enough for a unit test, and a few images to train them on."""

from __future__ import annotations

import copy
import gc
import importlib
import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import mmseg
import pytest
import torch
import typer.main
import typer.testing
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmengine.utils.dl_utils import mmcv_full_available
from torch import Tensor, nn

from rdistill.cli import main
from rdistill.config.load import Shortcuts, load_config, read_config_file
from rdistill.data import synthetic
from rdistill.handover.inference import load_predictor, network_input
from rdistill.models import checkpoint
from rdistill.models.checkpoint import save_student
from rdistill.training.hooks import Silent
from rdistill.training.run import train

REPO = Path(__file__).resolve().parents[1]
NUM_TRAIN, NUM_VAL = 6, 3
SIZE = 32  # pixels
# Folders of configs that no test changes: what they say is read once.
UNCHANGING = [REPO / "configs", Path(mmseg.__file__).parent / ".mim" / "configs"]

_TINY_DISTILL = """_base_ = ['student.py']
distill = dict(
    teachers=[dict(config='teacher.py', checkpoint='teacher/best.pth')],
    features=dict(
        student=['backbone.layer3', 'backbone.layer4', 'decode_head.bottleneck'],
        teacher=['backbone.layer3', 'backbone.layer4', 'decode_head.bottleneck']),
    losses=dict(
        logits=dict(type='KL', on='logits', weight=3.0, tau=1.0, per_class=True),
        hidden=dict(type='CWD', pair=(1, 1), weight=50.0, tau=4.0)))
"""


@dataclass(frozen=True)
class Tiny:
    """A folder with ``teacher.py``, ``student.py`` and ``distill.py``, and the data they train on.

    Teacher: R50 with 4 base channels and a decode head of 16; student: R18 with 4 and 12.
    """

    folder: Path
    data_root: Path

    def load(self, name: str, overrides: Mapping[str, Any] | None = None, **shortcuts: Any) -> Config:
        """One of the three configs, at 32 pixels, 2 images a step, 6 iterations, validated every 2."""
        defaults = dict(data_root=str(self.data_root), size=str(SIZE), iters=6, batch_size=2, val_interval=2)
        return load_config(self.folder / f"{name}.py", overrides, Shortcuts(**{**defaults, **shortcuts}))


@dataclass(frozen=True)
class Run:
    """A finished run: its folder and what ``train`` returned."""

    folder: Path
    metrics: dict[str, Any]

    def weights(self, name: str = "last.pth") -> dict[str, Tensor]:
        return torch.load(self.folder / name, weights_only=True)["state_dict"]

    def written_metrics(self) -> dict[str, Any]:
        return json.loads((self.folder / "metrics.json").read_text())


class Killed(Exception):
    """Ends a run from outside, as a signal would."""


class KillAt(Silent):
    """Stands for a process that dies right after the validation of one iteration and its checkpoint."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def validated(self, iteration: int, metrics: Mapping[str, Any]) -> None:
        if iteration == self.iteration:
            raise Killed


@dataclass
class Recorder(Silent):
    """A listener that keeps what it is told."""

    starts: list[Any]
    steps: list[Any]
    validations: list[Any]

    def training_started(self, *, first_iteration: int, last_iteration: int, facts: Mapping[str, Any]) -> None:
        self.starts.append((first_iteration, last_iteration, dict(facts)))

    def stepped(self, iteration: int, values: Mapping[str, float]) -> None:
        self.steps.append((iteration, dict(values)))

    def validated(self, iteration: int, metrics: Mapping[str, Any]) -> None:
        self.validations.append((iteration, dict(metrics)))


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit status and what it printed."""

    status: int
    out: str
    err: str


Command = Callable[..., Outcome]


def modules_after(imports: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after some imports."""
    code = f"import sys\n{imports}\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def version_of(file: str | Path) -> tuple[Any, ...]:
    """What changes whenever a file is written again."""
    state = os.stat(file)
    return str(file), state.st_mtime_ns, state.st_size, state.st_ino


def of_each_version(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The same function of a file, called once for each content that the file has had."""
    results: dict[tuple[Any, ...], Any] = {}

    def remembered(file: str | Path) -> Any:
        key = version_of(file)
        if key not in results:
            results[key] = function(file)
        return results[key]

    return remembered


def read_once(read: Callable[..., Any], folders: Collection[Path]) -> Callable[..., Any]:
    """mmengine's reading of a config file, which remembers what the files below some folders say: they do not change.

    Files outside, which tests write and change, are read each time; their bases within are not.
    """
    results: dict[tuple[Any, ...], Any] = {}

    def remembered(filename: str, *args: Any, **kwargs: Any) -> Any:
        file = Path(filename).absolute()
        if not file.is_file() or not any(file.is_relative_to(folder) for folder in folders):
            return read(filename, *args, **kwargs)
        key = (version_of(file), args, tuple(sorted(kwargs.items())))
        if key not in results:
            results[key] = read(filename, *args, **kwargs)
        return copy.deepcopy(results[key])

    return remembered


def is_plain(value: object) -> bool:
    """Whether a value of a state dict can be copied: no sparse, nested or meta tensor."""
    return not isinstance(value, Tensor) or (
        value.layout is torch.strided and not (value.is_nested or value.is_meta or value.is_quantized)
    )


def loaded_once(load: Callable[..., Any]) -> Callable[..., Any]:
    """torch.load that remembers what a file of plain weights holds, as long as the file stays as it is."""
    results: dict[tuple[Any, ...], Any] = {}

    def remembered(file: Any, *args: Any, **kwargs: Any) -> Any:
        if args or not isinstance(file, str | Path) or kwargs != {"map_location": "cpu", "weights_only": True}:
            return load(file, *args, **kwargs)
        key = version_of(file)
        if key not in results:
            loaded = load(file, **kwargs)
            weights = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else None
            if not isinstance(weights, dict) or not all(map(is_plain, weights.values())):
                return loaded
            results[key] = loaded
        return copy.deepcopy(results[key])

    return remembered


@pytest.fixture(autouse=True)
def _scope_of_mmseg() -> Iterator[None]:
    """Every test begins in mmseg's scope, as a call of the library does, and no test sees the scope of an earlier one.

    A runner that a test builds without a scope sets mmengine's, where mmseg's losses and transforms have no name.
    """
    with DefaultScope.overwrite_default_scope("mmseg"):
        yield


@pytest.fixture(autouse=True, scope="session")
def _quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    torch.set_num_threads(1)
    gc.collect()
    with pytest.MonkeyPatch.context() as patch:
        # yapf renames its file of tables before all of it is written, so that a process that begins at the same time
        # may read an empty file. Each process has a file of its own.
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("yapf")))
        importlib.import_module("yapf.yapflib.yapf_api")
        patch.undo()
        # mmengine looks for mmcv's compiled operators at each of a model's modules: a third of what building it takes
        patch.setattr("mmengine.model.utils.mmcv_full_available", cache(mmcv_full_available))
        # A config that is written is laid out by yapf, a second each: what it says is the same without.
        patch.setattr("yapf.yapflib.yapf_api.FormatCode", lambda text, **_: (text, False))
        # Each command line makes all commands anew; they hold nothing of the last one.
        for module in ("typer.main.get_command", "typer.testing._get_command"):
            patch.setattr(module, cache(typer.main.get_command))
        # Whether a config is mmengine's lazy kind, by a tree of all of it, three times a load.
        patch.setattr(Config, "_is_lazy_import", staticmethod(of_each_version(Config._is_lazy_import)))
        patch.setattr(Config, "_file2dict", staticmethod(read_once(Config._file2dict, UNCHANGING)))
        # A teacher's checkpoint is read and verified for each model that is built.
        patch.setattr(torch, "load", loaded_once(torch.load))
        patch.setattr(checkpoint, "damaged", of_each_version(checkpoint.damaged))
        yield


@pytest.fixture(autouse=True)
def _modules_are_no_garbage(modules_frozen: list[int]) -> None:
    """mmengine collects garbage for each dataset it builds: 0.1 s with all that is imported, unless it is frozen."""
    if len(sys.modules) > modules_frozen[0]:
        gc.freeze()
        modules_frozen[0] = len(sys.modules)


@pytest.fixture(scope="session")
def modules_frozen() -> list[int]:
    """How many modules there were when garbage collection last put aside what there was."""
    return [0]


@pytest.fixture
def paddleseg_root(tmp_path: Path, data_root: Path) -> Path:
    """The same images as PaddleSeg's optic_disc_seg keeps them."""
    for folder in ("JPEGImages", "Annotations"):
        (tmp_path / folder).mkdir()
    for split in ("train", "val"):
        lines = []
        for image in sorted((data_root / "img_dir" / split).iterdir()):
            name = f"{split}{image.stem}"
            (tmp_path / "JPEGImages" / f"{name}.jpg").write_bytes(image.read_bytes())
            mask = cv2.imread(str(data_root / "ann_dir" / split / f"{image.stem}.png"), cv2.IMREAD_UNCHANGED)
            cv2.imwrite(str(tmp_path / "Annotations" / f"{name}.png"), mask)
            lines.append(f"JPEGImages/{name}.jpg Annotations/{name}.png\n")
        (tmp_path / f"{split}_list.txt").write_text("".join(lines) + "\n")
    return tmp_path


@pytest.fixture(scope="session")
def repo() -> Path:
    return REPO


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    synthetic.generate(root, num_train=NUM_TRAIN, num_val=NUM_VAL, size=48, seed=0)
    return root


@pytest.fixture(scope="session")
def tiny_without_teacher(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Tiny:
    """The three configs; the teacher's checkpoint does not exist yet."""
    folder = tmp_path_factory.mktemp("tiny")
    for name, base, channels in (
        ("teacher", "teacher/deeplabv3plus_r50-slim_optic-disc-128.py", (128, 16, 16)),
        ("student", "student/deeplabv3plus_r18-slim_optic-disc-128.py", (32, 4, 12)),
    ):
        cfg = read_config_file(REPO / "configs" / base)
        head = dict(zip(("in_channels", "c1_in_channels", "channels"), channels, strict=True))
        # Weighted classes and quick BatchNorm statistics let a student of six iterations predict both classes, so
        # that its scores say something.
        norm = dict(momentum=0.5)
        head.update(c1_channels=4, norm_cfg=norm, loss_decode=dict(class_weight=[0.5, 30.0]))
        backbone = dict(base_channels=4, stem_channels=4, norm_cfg=norm)
        cfg.merge_from_dict(
            dict(model=dict(backbone=backbone, decode_head=head), optim_wrapper=dict(optimizer=dict(lr=0.03)))
        )
        cfg.dump(folder / f"{name}.py")  # whole: looking up `mmseg::` takes mmengine 0.2 s each time
    (folder / "distill.py").write_text(_TINY_DISTILL)
    UNCHANGING.append(folder)
    return Tiny(folder, data_root)


@pytest.fixture(scope="session")
def teacher_run(tiny_without_teacher: Tiny) -> Run:
    """The teacher after four iterations."""
    folder = tiny_without_teacher.folder / "teacher"
    return Run(folder, train(tiny_without_teacher.load("teacher", iters=4, val_interval=4), folder))


@pytest.fixture(scope="session")
def tiny(tiny_without_teacher: Tiny, teacher_run: Run) -> Tiny:
    return tiny_without_teacher


@pytest.fixture(scope="session")
def distilled_run(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The student after six iterations under the teacher: KL on logits, CWD between different widths."""
    folder = tmp_path_factory.mktemp("distilled") / "run"
    return Run(folder, train(tiny.load("distill"), folder))


@pytest.fixture(scope="session")
def both_classes(distilled_run: Run, tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Config and checkpoint of the distilled student, its bias moved so that it predicts each class on half an image.

    After six iterations it may predict one class only, and two all-alike masks say little.
    """
    cfg, file = distilled_run.folder / "student.py", tmp_path_factory.mktemp("both") / "student.pth"
    predictor = load_predictor(read_config_file(cfg), distilled_run.folder / "student.pth")
    image = network_input(predictor, min((tiny.data_root / "img_dir" / "val").iterdir()))
    with torch.no_grad():
        logits = predictor.model.encode_decode(image, [dict(img_shape=image.shape[2:])])
        predictor.model.decode_head.conv_seg.bias[1] -= (logits[:, 1] - logits[:, 0]).median()
    save_student(predictor.model, file, classes=list(predictor.classes), palette=list(predictor.palette), meta={})
    return [cfg, file]


@pytest.fixture(scope="session")
def one_channel() -> dict[str, Any]:
    """Overrides that give a model of two classes one output channel, with a sigmoid and a threshold."""
    return {
        "+model.decode_head.out_channels": 1,
        "+model.decode_head.threshold": 0.5,
        "model.decode_head.loss_decode": dict(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=1.0),
    }


@pytest.fixture(scope="session")
def one_channel_run(
    tiny: Tiny, one_channel: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Run, list[Path]]:
    """A student of one channel after six iterations under the teacher of two; files as `both_classes`.

    There the threshold is another than 0.5, so that what is not asked for it shows.
    """
    folder = tmp_path_factory.mktemp("one_channel") / "run"
    run = Run(folder, train(tiny.load("distill", one_channel), folder))
    cfg = read_config_file(folder / "student.py")
    cfg.model.decode_head.threshold = 0.3
    cfg.dump(folder / "one.py")
    predictor = load_predictor(cfg, folder / "student.pth")
    image = network_input(predictor, min((tiny.data_root / "img_dir" / "val").iterdir()))
    with torch.no_grad():
        logits = predictor.model.encode_decode(image, [dict(img_shape=image.shape[2:])])
        predictor.model.decode_head.conv_seg.bias -= logits.median() - torch.tensor(0.3).logit()
    file = folder / "one.pth"
    save_student(predictor.model, file, classes=list(predictor.classes), palette=list(predictor.palette), meta={})
    return run, [folder / "one.py", file]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Runs the console script's own function, in an empty directory."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["rdistill", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        return Outcome(int(caught.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture
def small(tiny: Tiny) -> list[object]:
    return ["--data-root", tiny.data_root, "--size", 32, "--iters", 2, "--batch-size", 2, "--val-interval", 2]


@pytest.fixture
def recorder() -> Recorder:
    return Recorder([], [], [])


@pytest.fixture(scope="session")
def stream_batches() -> Callable[..., list[dict[str, Any]]]:
    """The first batches of a config's training data, as a run draws them."""

    def batches(
        cfg: Config, count: int, *, seed: int = 0, data_workers: int = 0, skip: int = 0
    ) -> list[dict[str, Any]]:
        loader_cfg = cfg.train_dataloader.to_dict()
        loader_cfg["num_workers"] = data_workers
        loader_cfg["dataset"] = dict(type="StreamDataset", dataset=loader_cfg["dataset"], seed=seed)
        loader_cfg["sampler"] = dict(type="StreamSampler", seed=seed)
        loader = Runner.build_dataloader(loader_cfg, seed=0)
        loader.sampler.skip(skip)
        iterator = iter(loader)
        return [next(iterator) for _ in range(count)]

    return batches


@pytest.fixture(scope="session")
def same_batches() -> Callable[[list[dict[str, Any]], list[dict[str, Any]]], bool]:
    """Whether two lists of batches hold the same images and masks, to the last bit and in the same order."""

    def same(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> bool:
        def tensors(batches: list[dict[str, Any]]) -> list[Tensor]:
            images = [image for batch in batches for image in batch["inputs"]]
            return images + [sample.gt_sem_seg.data for batch in batches for sample in batch["data_samples"]]

        actual, expected = tensors(first), tensors(second)
        return len(actual) == len(expected) and all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))

    return same


@pytest.fixture(scope="session")
def state_equal() -> Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], bool]:
    """Whether two state dicts are equal to the last bit."""

    def equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
        return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)

    return equal


@pytest.fixture(scope="session")
def snapshot() -> Callable[[nn.Module], dict[str, Tensor]]:
    """A copy of a model's weights and buffers."""
    return lambda model: {key: value.clone() for key, value in model.state_dict().items()}


def _worker(rank: int, count: int, function: Callable[[int], Any], folder: str) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count))  # Ray Train sets these
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=count)
    torch.save(function(rank), f"{folder}/{rank}.pth")
    torch.distributed.destroy_process_group()


@pytest.fixture
def in_workers(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, Callable[[int], Any]], list[Any]]:
    """Runs a function of the rank in some forked processes of one gloo group; returns what each returned."""

    def run(count: int, function: Callable[[int], Any]) -> list[Any]:
        folder = tmp_path_factory.mktemp("group")
        context = multiprocessing.get_context("fork")
        group = [context.Process(target=_worker, args=(r, count, function, str(folder))) for r in range(count)]
        for process in group:
            process.start()
        for process in group:
            process.join(timeout=240)
        assert [process.exitcode for process in group] == [0] * count
        return [torch.load(folder / f"{rank}.pth", weights_only=False) for rank in range(count)]

    return run
