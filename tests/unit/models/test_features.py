"""Feature names on a real mmseg model: what each form gives, what a wrong one says, and what stays behind."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from conftest import Tiny
from mmseg.models.decode_heads import DepthwiseSeparableASPPHead
from torch import Tensor, nn

from rdistill.core.errors import UserError
from rdistill.models.activation_checkpointing import checkpoint_activations
from rdistill.models.features import Feature, FeatureCapture, as_maps, parse_feature
from rdistill.models.segmentor import build_segmentor


@pytest.fixture
def model(tiny_without_teacher: Tiny) -> nn.Module:
    torch.manual_seed(0)
    return build_segmentor(tiny_without_teacher.load("student").model).eval()


def images(seed: int = 0) -> Tensor:
    return torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def run(model: nn.Module, seed: int = 0) -> Tensor:
    """Logits, as mmseg's training computes them: through ``decode_head.forward``, past PyTorch's hooks."""
    return model.decode_head.forward(model.extract_feat(images(seed)))


def instance_attributes(model: nn.Module) -> dict[str, set[str]]:
    return {name: set(vars(module)) for name, module in model.named_modules()}


@pytest.mark.parametrize(
    ("name", "layer", "kind", "member", "element"),
    [
        ("backbone.layer4", "backbone.layer4", "output", "", None),
        ("backbone[2]", "backbone", "output", "", 2),
        ("backbone[-1]", "backbone", "output", "", -1),
        ("decode_head:input[0]", "decode_head", "input", "", 0),
        ("decode_head.cls_seg()", "decode_head", "method", "cls_seg", None),
        ("extract_feat()[3]", "", "method", "extract_feat", 3),
        ("decode_head@kept", "decode_head", "attribute", "kept", None),
        ("@kept", "", "attribute", "kept", None),
        ("decode_head.conv_seg.weight", "decode_head.conv_seg", "parameter", "weight", None),
        ("backbone.stem.1.running_mean", "backbone.stem.1", "parameter", "running_mean", None),
    ],
)
def test_grammar(model: nn.Module, name: str, layer: str, kind: Any, member: str, element: int | None) -> None:
    assert parse_feature(name, model) == Feature(name, layer, kind, member, element)


def test_each_form_gives_its_tensor(model: nn.Module) -> None:
    names = [
        "backbone.layer4", "backbone[2]", "backbone[-1]", "decode_head", "decode_head:input[1]",
        "decode_head.bottleneck:input", "decode_head.bottleneck", "decode_head.cls_seg()",
        "decode_head.conv_seg.weight", "extract_feat()[3]",
    ]  # fmt: skip
    hooked: dict[str, Tensor] = {}
    for layer in ("backbone.layer4", "decode_head.bottleneck"):  # these are called, so PyTorch's own hooks see them
        model.get_submodule(layer).register_forward_hook(
            lambda _, inputs, output, layer=layer: hooked.update({layer: output, f"{layer}:input": inputs[0]})
        )
    with torch.no_grad(), FeatureCapture(model, [*names, "decode_head"]) as capture:
        assert capture.names == tuple(names)  # a name twice is captured once
        features = model.extract_feat(images())
        logits = model.decode_head.forward(features)
        captured = {name: capture[name] for name in names}
    expected = {
        "backbone.layer4": hooked["backbone.layer4"],
        "backbone[2]": features[2],
        "backbone[-1]": features[3],
        "decode_head": logits,
        "decode_head:input[1]": features[1],
        "decode_head.bottleneck:input": hooked["decode_head.bottleneck:input"],
        "decode_head.bottleneck": hooked["decode_head.bottleneck"],
        "decode_head.cls_seg()": logits,
        "decode_head.conv_seg.weight": model.decode_head.conv_seg.weight,
        "extract_feat()[3]": features[3],
    }
    for name, tensor in expected.items():
        assert captured[name] is tensor, name


def test_outputs_of_a_training_step(model: nn.Module) -> None:
    """mmseg's ``loss`` runs the head by ``.forward``, where PyTorch's hooks see nothing."""
    seen = []
    model.decode_head.register_forward_hook(lambda *_: seen.append(1))
    with FeatureCapture(model, ["decode_head"]) as capture:
        logits = run(model)
        assert not seen and capture["decode_head"] is logits
        logits.square().mean().backward()
        assert capture["decode_head"].grad_fn is not None  # captured in the graph: a loss on it trains the model


class KeepingHead(DepthwiseSeparableASPPHead):
    """Keeps a tensor as PaddleSeg's distillation has it: as an attribute that ``forward`` sets."""

    def forward(self, inputs: Any) -> Tensor:
        self.kept = inputs[0] * 2
        self.pair = (inputs[0], inputs[1])
        return super().forward(inputs)


def test_attribute(model: nn.Module) -> None:
    model.decode_head.__class__ = KeepingHead
    with torch.no_grad(), FeatureCapture(model, ["decode_head@kept", "decode_head@pair[1]"]) as capture:
        with pytest.raises(UserError, match="'decode_head@kept': nothing was captured"):
            capture["decode_head@kept"]
        features = model.extract_feat(images())
        model.decode_head.forward(features)
        assert torch.equal(capture["decode_head@kept"], features[0] * 2)
        assert capture["decode_head@pair[1]"] is features[1]
    assert model.decode_head.kept is None


def test_last_call_counts(model: nn.Module) -> None:
    with torch.no_grad(), FeatureCapture(model, ["backbone.layer4"]) as capture:
        run(model, seed=0)
        first = capture["backbone.layer4"]
        run(model, seed=1)
        assert not torch.equal(capture["backbone.layer4"], first)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("backbone.layer5", r"has no layer 'backbone.layer5'; did you mean 'backbone.layer\d'\?"),
        ("backbon.layer4[0]", "did you mean 'backbone.layer4'"),
        ("decode_haed:input", "did you mean 'decode_head'"),
        ("decode_head.cls_sge()", "DepthwiseSeparableASPPHead has no method 'cls_sge'; did you mean 'cls_seg'"),
        ("decode_haed.cls_seg()", "has no layer 'decode_haed'; did you mean 'decode_head'"),
        ("decode_haed@kept", "has no layer 'decode_haed'; did you mean 'decode_head'"),
        ("zzz", "has no layer 'zzz'$"),
        ("backbone layer4", "is malformed; write a layer, layer"),
        ("backbone[x]", "is malformed"),
        ("backbone:output", "is malformed"),
    ],
)
def test_wrong_names_name_the_nearest(model: nn.Module, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        FeatureCapture(model, [name])


def test_all_wrong_names_are_reported(model: nn.Module) -> None:
    with pytest.raises(UserError) as caught:
        FeatureCapture(model, ["backbone.layer5", "backbone.layer4", "neck"])
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "feature 'backbone.layer5'",
        "feature 'neck'",
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("backbone", r"gives 4 tensors; choose one, such as backbone\[0\]"),
        ("decode_head:input", r"gives 4 tensors; choose one, such as decode_head:input\[0\]"),
        ("backbone[4]", "gives 4 tensors, 0 to 3"),
        ("backbone[-5]", "gives 4 tensors, 0 to 3"),
        ("backbone.layer4[0]", r"gives one tensor; leave out \[0\]"),
        ("decode_head@training", "is a bool, not a tensor"),
        ("decode_head.loss_decode", "nothing was captured; the layer does not run"),
    ],
)
def test_not_one_tensor(model: nn.Module, name: str, message: str) -> None:
    with torch.no_grad(), FeatureCapture(model, [name]) as capture:
        run(model)
        with pytest.raises(UserError, match=message):
            capture[name]


def test_detach_leaves_the_model_as_it_was(model: nn.Module) -> None:
    with torch.no_grad():
        before, attributes = run(model), instance_attributes(model)
        capture = FeatureCapture(
            model, ["backbone.layer4", "decode_head:input[0]", "decode_head.cls_seg()", "decode_head"]
        )
        assert instance_attributes(model) == attributes  # not attached yet
        capture.attach()
        capture.attach()
        assert "forward" in vars(model.decode_head)
        assert torch.equal(run(model), before)
        capture.detach()
        assert instance_attributes(model) == attributes
        capture.clear()
        assert torch.equal(run(model), before)
        with pytest.raises(UserError, match="nothing was captured"):
            capture["decode_head"]


def test_an_error_in_forward_detaches_too(model: nn.Module) -> None:
    attributes = instance_attributes(model)
    with pytest.raises(RuntimeError), FeatureCapture(model, ["backbone.layer4"]):
        model.extract_feat(torch.zeros(1, 5, 32, 32))
    assert instance_attributes(model) == attributes


def test_a_replaced_forward_is_restored(model: nn.Module) -> None:
    head, calls = model.decode_head, []
    original: Callable[..., Any] = head.forward

    def replaced(*args: Any) -> Any:
        calls.append(1)
        return original(*args)

    head.forward = replaced
    with torch.no_grad(), FeatureCapture(model, ["decode_head"]) as capture:
        logits = run(model)
        assert capture["decode_head"] is logits
    assert vars(head)["forward"] is replaced and calls == [1]


def test_nothing_is_kept_alive(model: nn.Module) -> None:
    model.decode_head.__class__ = KeepingHead
    names = ["backbone.layer4", "decode_head:input[0]", "decode_head.cls_seg()", "decode_head@kept"]
    capture = FeatureCapture(model, names)
    capture.attach()
    run(model).sum()
    references = [weakref.ref(capture[name]) for name in names]
    assert all(reference() is not None for reference in references)
    capture.detach()
    capture.clear()
    model.decode_head.pair = None  # the test's own
    gc.collect()
    assert [name for name, reference in zip(names, references, strict=True) if reference() is not None] == []


# --- layers that write into what another layer gave -----------------------------------------------------------------


def called_layers(model: nn.Module) -> list[str]:
    """Names of the outputs and the inputs of all layers that PyTorch's hooks see with one tensor each."""
    names: list[str] = []

    def hook(name: str, inputs: Any, output: Any) -> None:
        names.extend([name] if isinstance(output, Tensor) else [])
        names.extend([f"{name}:input"] if inputs and isinstance(inputs[0], Tensor) else [])

    handles = [
        module.register_forward_hook(lambda _, inputs, output, name=name: hook(name, inputs, output))
        for name, module in model.named_modules()
        if name
    ]
    with torch.no_grad():
        run(model)
    for handle in handles:
        handle.remove()
    return list(dict.fromkeys(names))


def hooked_copies(model: nn.Module, names: list[str], seed: int) -> dict[str, Tensor]:
    """What PyTorch's own hooks see, copied at once."""
    copies: dict[str, Tensor] = {}

    def before(name: str) -> Callable[..., None]:
        return lambda _, inputs: copies.update({name: inputs[0].clone()})

    def after(name: str) -> Callable[..., None]:
        return lambda _, inputs, output: copies.update({name: output.clone()})

    handles = []
    for name in names:
        module = model.get_submodule(name.removesuffix(":input"))
        if name.endswith(":input"):
            handles.append(module.register_forward_pre_hook(before(name)))
        else:
            handles.append(module.register_forward_hook(after(name)))
    run(model, seed)
    for handle in handles:
        handle.remove()
    return copies


def gradients(model: nn.Module, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of a loss on every feature, by parameter."""
    total = sum(feature.square().mean() for feature in features.values() if feature.requires_grad)
    names, parameters = zip(*model.named_parameters(), strict=True)
    values = torch.autograd.grad(total, parameters, allow_unused=True)
    return {name: value for name, value in zip(names, values, strict=True) if value is not None}


@pytest.mark.parametrize("grad", [True, False])
def test_every_layer_is_captured_as_it_gave_it(model: nn.Module, grad: bool) -> None:
    """ReLU(inplace=True) and `+=` write into the outputs of convolutions, norms and blocks, and into inputs."""
    names = called_layers(model)
    capture = FeatureCapture(model, names)
    written: list[str] = []
    for step in range(3):  # the first pass finds out, the next ones know
        with torch.set_grad_enabled(grad):
            expected = hooked_copies(model, names, seed=step)
            with capture:
                run(model, step)
                captured = {name: capture[name] for name in names}
                last = {name: kept.tensor for name, kept in capture._kept.items()}
        for name in names:
            assert torch.equal(captured[name], expected[name]), (step, name)
        written = [name for name in names if captured[name] is not last[name]]
        if grad:
            actual, right = gradients(model, captured), gradients(model, expected)
            assert actual.keys() == right.keys()
            for key in actual:
                torch.testing.assert_close(actual[key], right[key], msg=key)
    assert {"backbone.layer4.1.bn2", "decode_head.bottleneck.bn", "decode_head.bottleneck.activate:input"} <= {*written}
    assert {"backbone.layer4.1.conv2", "backbone.layer4", "decode_head.bottleneck.conv"}.isdisjoint(
        written
    )  # no copies


class WritingNet(nn.Module):
    """A layer that gives a list, an attribute and views, and a next one that writes into all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = self.First(), self.Second()

    class First(nn.Module):
        def forward(self, x: Tensor) -> list[Tensor]:
            self.aux = x * 3
            return [*self.parts(x), self.aux]

        def parts(self, x: Tensor) -> list[Tensor]:
            whole = x * 2
            return [whole[:, :2], whole[:, 2:]]  # views of one tensor

    class Second(nn.Module):
        def forward(self, parts: list[Tensor]) -> Tensor:
            parts[1] += 100
            parts[2].mul_(0)
            total = parts[0].sum() + parts[1].sum()
            del parts[0]
            return total

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_elements_attributes_methods_and_views(mode: Callable[[], Any]) -> None:
    model = WritingNet()
    expected = {
        "first[0]": 2, "first[1]": 2, "first[-1]": 3, "first.parts()[1]": 2, "first@aux": 3,
        "second:input[1]": 2, "second:input[2]": 3,
    }  # fmt: skip
    capture = FeatureCapture(model, list(expected))
    for _ in range(3):
        with mode(), capture:
            model(torch.ones(1, 4, requires_grad=mode is torch.enable_grad) + 0)
            for name, value in expected.items():
                assert (capture[name] == value).all(), name


class SometimesWriting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.writes = nn.Identity(), False

    def forward(self, x: Tensor) -> Tensor:
        returned = self.layer(x)
        return returned.add_(1) if self.writes else returned + 1


def test_a_layer_written_into_later_is_no_silent_wrong_value() -> None:
    """What is found out counts for its mode; within it, a change that comes late is said."""
    model = SometimesWriting()
    capture = FeatureCapture(model, ["layer"])
    with torch.no_grad(), capture:
        model(torch.zeros(2))
        assert (capture["layer"] == 0).all()
        model.writes = True
        model.eval()  # a mode of its own: found out anew
        model.layer.eval()
        model(torch.zeros(2))
        assert (capture["layer"] == 0).all()
        model.layer.train()
        model(torch.zeros(2))
        with pytest.raises(UserError) as caught:
            capture["layer"]
    assert caught.value.problems == (
        "feature 'layer': a later layer wrote into it in this step, though not in the first; name a layer whose output "
        "is not overwritten",
    )


def test_a_layer_that_is_written_into_in_some_steps_keeps_its_copy() -> None:
    model = SometimesWriting()
    capture = FeatureCapture(model, ["layer"])
    with torch.no_grad(), capture:
        for model.writes in (True, False, True):
            model(torch.zeros(2))
            assert (capture["layer"] == 0).all()


def test_a_tensor_that_is_written_into_after_it_was_read_is_not_read_again() -> None:
    model = SometimesWriting()
    capture = FeatureCapture(model, ["layer"])
    with torch.no_grad(), capture:
        model(torch.zeros(2))
        capture["layer"].add_(1)
        with pytest.raises(UserError, match=r"^feature 'layer': a later layer wrote into it in this step"):
            capture["layer"]


def test_inside_a_checkpointed_layer(model: nn.Module) -> None:
    names = ["backbone.layer4.1.bn2", "backbone.layer4.1.bn1", "backbone.layer4.1.conv2:input"]
    expected = gradients(model, hooked_copies(model, names, seed=0))
    checkpoint_activations(model, ["backbone.layer4"])
    capture = FeatureCapture(model, names)
    for _ in range(2):
        with capture:
            run(model)
            actual = gradients(model, {name: capture[name] for name in names})
        assert actual.keys() == expected.keys()
        for key in actual:
            torch.testing.assert_close(actual[key], expected[key], msg=key)


# --- tokens ---------------------------------------------------------------------------------------------------------


def test_tokens_fold_row_by_row() -> None:
    maps = torch.arange(2 * 3 * 4 * 6.0).reshape(2, 3, 4, 6)
    tokens = maps.flatten(2).transpose(1, 2)
    assert torch.equal(as_maps(tokens, (64, 96)), maps)
    assert torch.equal(as_maps(torch.cat([torch.zeros(2, 1, 3), tokens], dim=1), (64, 96)), maps)  # a class token
    assert as_maps(torch.zeros(2, 7, 3), (64, 64)).shape == (2, 7, 3)  # no grid has this shape
    assert as_maps(maps, (64, 96)) is maps


@pytest.mark.parametrize("prefix", [0, 1, 2, 4, 5])
@pytest.mark.parametrize(
    ("size", "grid"),
    [
        ((224, 224), (14, 14)),
        ((512, 1024), (32, 64)),
        ((518, 518), (37, 37)),  # DINOv2's patches of 14 pixels
        ((280, 420), (20, 30)),
        ((96, 64), (6, 4)),
        ((90, 130), (6, 9)),  # patches of 14 pixels, the rest of the image left out
    ],
)
def test_tokens_that_are_no_tiles_are_left_out(size: tuple[int, int], grid: tuple[int, int], prefix: int) -> None:
    """A class token; DeiT's two; four registers, with a class token in DINOv2 and DINOv3."""
    maps = torch.randn(1, 3, *grid, generator=torch.Generator().manual_seed(0))
    tokens = torch.cat([torch.full((1, prefix, 3), 9.0), maps.flatten(2).transpose(1, 2)], dim=1)
    assert torch.equal(as_maps(tokens, size), maps)


@pytest.mark.parametrize(
    ("length", "size", "grid"),
    [
        (180, (90, 120), (12, 15)),  # stride 8 rounded up, not a grid of another aspect
        (9, (64, 64), (2, 2)),  # 5 and 2 x 2 patches of 32: 3 x 3 divides no 64 pixels
        (9, (66, 66), (3, 3)),
        (36, (96, 96), (6, 6)),  # the fewest: not 5 x 6 and others
        (4, (16, 64), (1, 4)),
        (4, (64, 16), (4, 1)),
    ],
)
def test_ambiguous_lengths(length: int, size: tuple[int, int], grid: tuple[int, int]) -> None:
    assert as_maps(torch.zeros(1, length, 3), size).shape == (1, 3, *grid)


@pytest.mark.parametrize(("length", "side"), [(110, 100), (600, 224), (132, 196), (552, 99)])
def test_a_side_that_is_off_by_a_whole_cell_is_no_grid(length: int, side: int) -> None:
    """11 x 10 tokens of 100 x 100 pixels, and so on: by division 11 cells come out as 10.999999999999998."""
    assert as_maps(torch.zeros(1, length, 3), (side, side)).shape == (1, length, 3)


def test_class_queries_are_no_map() -> None:
    """Segmenter's tokens of 21 classes are not 5 registers and 4 x 4 patches of 128 pixels."""
    assert as_maps(torch.zeros(1, 21, 3), (512, 512)).shape == (1, 21, 3)
    assert as_maps(torch.zeros(1, 6, 3), (256, 256)).shape == (1, 6, 3)  # nor are six 2 and 2 x 2 of 128 pixels
