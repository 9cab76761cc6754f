"""Models of transformers' own classes, saved and loaded: what they give, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import library_models as made
import pytest
import torch
from torch import nn

from rdistill.core.errors import UserError
from rdistill.models.features import FeatureCapture
from rdistill.models.segmentor import build_segmentor, gives_logits, logit_names, num_classes, run_heads
from rdistill.networks.transformers_models import class_posterior
from rdistill.teachers.libraries import hf

safetensors = pytest.importorskip("safetensors.torch", reason="pip install 'rdistill[teachers]'")
Build = Callable[[tuple[str, ...]], Any]
IMAGE = (48, 40)


class Files:
    """Of folders that are named in full."""

    def find_folder(self, name: str) -> Path | None:
        return Path(name) if Path(name).is_dir() else None


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Build], Path]:
    """Each model is made once."""
    folders: dict[Build, Path] = {}

    def of(build: Build) -> Path:
        if build not in folders:
            folders[build] = made.save(build, tmp_path_factory.mktemp(build.__name__))
        return folders[build]

    return of


def built(folder: Path, *, trust: bool = False, **options: Any) -> nn.Module:
    model = hf(path=str(folder), files=Files(), **options).model  # type: ignore[arg-type]
    return build_segmentor(model, trust_checkpoint=trust).eval()


def images(size: tuple[int, int] = IMAGE) -> torch.Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
@pytest.mark.parametrize("build", made.LOGITS, ids=lambda build: build.__name__)
def test_logits_are_the_model_s_own(build: Build, folder_of: Callable[[Build], Path]) -> None:
    model, size = built(folder_of(build)), (32, 32)
    logits = run_heads(model, model.extract_feat(images(size)), ["decode_head"])
    options = {"interpolate_pos_encoding": True} if build is made.beit else {}
    assert torch.equal(logits, model.backbone.network(pixel_values=images(size), **options).logits)
    assert logits.std() > 0 and (num_classes(model), logit_names(model, training=False)) == (2, ["decode_head"])
    assert model.extract_feat(images()).shape[:2] == (2, 2)  # any size


@torch.no_grad()
@pytest.mark.parametrize("build", made.MASKS, ids=lambda build: build.__name__)
def test_masks_with_classes_become_each_pixel_s_class(build: Build, folder_of: Callable[[Build], Path]) -> None:
    """As transformers' own post-processing has it, whose scores are not normalised and whose classes are the same."""
    model = built(folder_of(build))
    logits = run_heads(model, model.extract_feat(images((32, 32))), ["decode_head"])
    options = {} if model.backbone.task is None else {"task_inputs": model.backbone.task.expand(2, -1)}
    outputs = model.backbone.network(pixel_values=images((32, 32)), **options)
    for image in range(2):
        score = torch.zeros(2, *logits.shape[2:])
        for query in range(outputs.class_queries_logits.shape[1]):
            classes = outputs.class_queries_logits[image, query].softmax(0)[:-1]
            score += classes[:, None, None] * outputs.masks_queries_logits[image, query].sigmoid()
        assert torch.allclose(logits[image].softmax(0), score / score.sum(0), atol=1e-5)
    assert logits.std() > 0 and model.extract_feat(images()).shape[1] == 2


def test_a_posterior_by_hand() -> None:
    """One mask says class 0 with 0.6, no object with 0.3; the other class 1 with 0.5, no object with 0.4."""
    classes = torch.tensor([[[0.6, 0.1, 0.3], [0.1, 0.5, 0.4]]]).log()
    masks = torch.tensor([[0.9, 0.2], [0.5, 0.5]]).logit().reshape(1, 2, 1, 2)
    logits = class_posterior(SimpleNamespace(class_queries_logits=classes, masks_queries_logits=masks))
    mass = torch.tensor([[0.6 * 0.9 + 0.1 * 0.5, 0.6 * 0.2 + 0.1 * 0.5], [0.1 * 0.9 + 0.5 * 0.5, 0.1 * 0.2 + 0.25]])
    assert torch.allclose(logits[0, :, 0].exp(), mass / mass.sum(0))


def test_oneformer_is_told_its_task(folder_of: Callable[[Build], Path]) -> None:
    assert built(folder_of(made.oneformer)).backbone.task.tolist() == [[2, 3, 4, 5, 0, 0, 0, 0]]


@torch.no_grad()
@pytest.mark.parametrize("build", made.ENCODERS, ids=lambda build: build.__name__)
def test_an_encoder_gives_maps(build: Build, folder_of: Callable[[Build], Path]) -> None:
    model = built(folder_of(build))
    maps = model.extract_feat(images())
    assert not gives_logits(model) and logit_names(model, training=False) == []
    assert all(each.ndim == 4 and each.shape[0] == 2 and each.shape[2] >= each.shape[3] for each in maps)
    assert all(each.std() > 0 for each in maps)
    with FeatureCapture(model, ["backbone[-1]", "backbone[0]"]) as capture:
        run_heads(model, model.extract_feat(images()), capture.names)
        assert torch.equal(capture["backbone[-1]"], maps[-1]) and torch.equal(capture["backbone[0]"], maps[0])


@torch.no_grad()
@pytest.mark.parametrize(
    ("build", "in_front", "patch"), [(made.dinov2, 1, 14), (made.dinov2_with_registers, 5, 14), (made.dinov3, 5, 16)]
)
def test_class_token_and_registers_are_left_out(
    build: Build, in_front: int, patch: int, folder_of: Callable[[Build], Path]
) -> None:
    model, size = built(folder_of(build)), (2 * patch, 3 * patch)
    tokens = model.backbone.network(pixel_values=images(size)).last_hidden_state
    assert tokens.shape == (2, in_front + 6, 16)
    expected = tokens[:, in_front:].reshape(2, 2, 3, 16).permute(0, 3, 1, 2)
    assert torch.equal(model.extract_feat(images(size))[-1], expected)


@torch.no_grad()
def test_padded_or_resized_to_the_patch(folder_of: Callable[[Build], Path]) -> None:
    folder, size = folder_of(made.dinov2), (30, 28)  # patches of 14: 42 x 28, of whose last row 2 of 14 are the image
    padded, stretched = built(folder, fit="pad"), built(folder)
    whole = padded.extract_feat(nn.functional.pad(images(size), (0, 0, 0, 12)))[-1]
    assert torch.equal(padded.extract_feat(images(size))[-1], whole[..., :2, :]) and whole.shape[2] == 3
    assert stretched.extract_feat(images(size))[-1].shape[2:] == (3, 2)


@torch.no_grad()
def test_models_of_one_size_or_of_squares(folder_of: Callable[[Build], Path]) -> None:
    """EoMT's positions are those of 32 x 32 patches of 8; DPT's head takes squares. Maps get the image's shape."""
    for build in (made.eomt, made.dpt):
        logits = built(folder_of(build)).extract_feat(images((64, 32)))
        assert abs(logits.shape[2] - 2 * logits.shape[3]) <= 1, build.__name__


def test_an_encoder_without_what_stood_on_it_says_so(folder_of: Callable[[Build], Path]) -> None:
    (note,) = built(folder_of(made.vit)).backbone.notes
    assert note.startswith("2 weights of ") and note.endswith("are not ViTModel's, and left out: classifier.bias, "
                                                               "classifier.weight")  # fmt: skip
    assert built(folder_of(made.dinov2)).backbone.notes == []
    assert not any("text_model" in name for name in built(folder_of(made.siglip)).state_dict())


def copied(folder: Path, target: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """A model's folder with other weights."""
    target.mkdir()
    for file in folder.iterdir():
        if file.suffix == ".json":
            (target / file.name).write_text(file.read_text())
    weights = safetensors.load_file(folder / "model.safetensors")
    safetensors.save_file(change(weights) or weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda weights: weights.pop("decode_head.classifier.bias"), "1 missing: decode_head.classifier.bias"),
        (lambda weights: weights.update(extra=torch.zeros(1)), "1 unexpected: extra"),
        (
            lambda weights: weights.update({"decode_head.classifier.bias": torch.zeros(3)}),
            "decode_head.classifier.bias",
        ),
    ],
)
def test_weights_of_another_model(
    change: Callable[[Any], Any], problem: str, folder_of: Callable[[Build], Path], tmp_path: Path
) -> None:
    def changed(weights: dict[str, Any]) -> None:
        change(weights)

    folder = copied(folder_of(made.segformer), tmp_path / "other", changed)
    with pytest.raises(UserError) as caught:
        built(folder)
    assert problem in caught.value.problems[0] and len(caught.value.problems) == 1


def test_no_code_unless_trusted(folder_of: Callable[[Build], Path], tmp_path: Path) -> None:
    """A folder may hold the code of its model: it runs with --trust-checkpoint alone."""
    weights = {"conv.weight": torch.zeros(8, 3, 4, 4), "conv.bias": torch.ones(8)}
    folder = copied(folder_of(made.dinov2), tmp_path / "own", lambda _: weights)
    settings = json.loads((folder / "config.json").read_text())
    settings |= {"model_type": "rdistill_own", "architectures": ["Own"],
                 "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModel": "own.Own"}}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(settings))
    ran = tmp_path / "ran"
    (folder / "own.py").write_text(
        f"open({str(ran)!r}, 'w').close()\nfrom torch import nn\n"
        "from transformers import PretrainedConfig, PreTrainedModel\n"
        "class OwnConfig(PretrainedConfig):\n    model_type = 'rdistill_own'\n"
        "class Own(PreTrainedModel):\n    config_class = OwnConfig\n"
        "    def __init__(self, config):\n        super().__init__(config)\n        self.conv = nn.Conv2d(3, 8, 4, 4)\n"
        "        self.post_init()\n"
    )
    with pytest.raises(UserError, match="if you trust it, pass --trust-checkpoint"):
        built(folder)
    assert not ran.exists()
    assert type(built(folder, trust=True).backbone.network).__name__ == "Own" and ran.exists()


def test_a_segmentation_model_of_the_folder_s_own_code(folder_of: Callable[[Build], Path], tmp_path: Path) -> None:
    """Its settings are those of a model of transformers; its class is in the folder alone."""
    weights = {"conv.weight": torch.ones(2, 3, 4, 4), "conv.bias": torch.tensor([0.0, 1.0])}
    folder = copied(folder_of(made.segformer), tmp_path / "own", lambda _: weights)
    settings = json.loads((folder / "config.json").read_text())
    auto_map = {"AutoModelForSemanticSegmentation": "own.OwnForSemanticSegmentation"}
    settings |= {"architectures": ["OwnForSemanticSegmentation"], "auto_map": auto_map}
    (folder / "config.json").write_text(json.dumps(settings))
    ran = tmp_path / "ran"
    (folder / "own.py").write_text(
        f"open({str(ran)!r}, 'w').close()\nfrom types import SimpleNamespace\nfrom torch import nn\n"
        "from transformers import PreTrainedModel, SegformerConfig\n"
        "class OwnForSemanticSegmentation(PreTrainedModel):\n    config_class = SegformerConfig\n"
        "    def __init__(self, config):\n        super().__init__(config)\n"
        "        self.conv = nn.Conv2d(3, 2, 4, 4)\n        self.post_init()\n"
        "    def forward(self, pixel_values):\n        return SimpleNamespace(logits=self.conv(pixel_values))\n"
    )
    with pytest.raises(UserError, match="if you trust it, pass --trust-checkpoint"):
        built(folder)
    assert not ran.exists()
    teacher = built(folder, trust=True)
    logits = teacher.extract_feat(torch.ones(1, 3, 8, 8))
    assert ran.exists() and logits[0, :, 0, 0].tolist() == [48, 49] and num_classes(teacher) == 2


def test_no_pickle_that_runs_code(folder_of: Callable[[Build], Path], tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> Any:
            return (open, (str(tmp_path / "ran"), "w"))

    folder = copied(folder_of(made.segformer), tmp_path / "pickle", lambda weights: None)
    weights = safetensors.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    assert gives_logits(built(folder))
    torch.save({**weights, "code": Code()}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="transformers cannot load it"):
        built(folder)
    assert not (tmp_path / "ran").exists()


def test_damaged_weights(folder_of: Callable[[Build], Path], tmp_path: Path) -> None:
    folder = copied(folder_of(made.segformer), tmp_path / "damaged", lambda weights: None)
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="transformers cannot load it") as caught:
        built(folder)
    assert len(caught.value.problems) == 1


def test_a_folder_that_is_gone(folder_of: Callable[[Build], Path], tmp_path: Path) -> None:
    model = dict(hf(path=str(folder_of(made.segformer)), files=Files()).model)  # type: ignore[arg-type]
    model["backbone"] = {**model["backbone"], "folder": str(tmp_path / "gone")}
    with pytest.raises(UserError, match=r"no such folder .*gone"):
        build_segmentor(model)
