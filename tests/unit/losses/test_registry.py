"""A loss of a user's is registered in one file, and then is what rdistill's own are."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from loss_terms import EVERY_TERM, make_batch, make_term
from torch import Tensor, nn

from rdistill.core.errors import UserError
from rdistill.distributed import collectives
from rdistill.losses import LOSSES, Number, Term, check_params, register
from rdistill.losses.common import full_mask, mean_where
from rdistill.registration.registry import Registry


@pytest.fixture(autouse=True)
def registry_put_back() -> Iterator[None]:
    entries, sources = dict(LOSSES._entries), dict(LOSSES._sources)
    yield
    LOSSES._entries, LOSSES._sources = entries, sources


def test_a_function() -> None:
    @register(
        "Huberish", on=("features", "logits"), weight=2.0, weight_on_features=3.0, params={"delta": Number(above=0)}
    )
    def huberish(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None, delta: float = 0.5) -> Tensor:
        assert student.dtype == torch.float32 and not teacher.requires_grad
        return (student - teacher).abs().clamp(max=delta).mean()

    info = LOSSES["Huberish"]
    assert (info.default_weight("logits"), info.default_weight("features"), info.defaults) == (2.0, 3.0, {"delta": 0.5})
    assert check_params("Huberish", {"delta": 0}, "logits") == ["delta must be > 0, got 0"]
    term = Term("Huberish", student_channels=2, teacher_channels=3, num_classes=2, params={"delta": 0.25})
    assert term.adapter is not None  # channel by channel: the widths differ
    same = Term("Huberish", student_channels=3, teacher_channels=3, num_classes=2, params={"delta": 0.25})
    student, teacher = torch.zeros(1, 3, 2, 2, requires_grad=True), torch.tensor([0.0, 0.1, 9.0]).view(1, 3, 1, 1)
    teacher = teacher.expand(1, 3, 2, 2).clone().requires_grad_()
    torch.testing.assert_close(same(student, teacher), torch.tensor((0.0 + 0.1 + 0.25) / 3))
    with pytest.raises(ValueError, match="huberish: student and teacher must be N x C x H x W and agree in every axis"):
        info.load()(student, teacher[:, :2])


def test_a_module() -> None:
    @register("Projected", on=("features",), weight=1.0)
    class Projected(nn.Module):
        def __init__(self, student_channels: int, teacher_channels: int, num_classes: int, *, width: int = 5) -> None:
            super().__init__()
            self.classes = num_classes
            self.layers = nn.ModuleList([nn.Conv2d(student_channels, width, 1), nn.Conv2d(teacher_channels, width, 1)])

        def forward(
            self, student: Tensor, teacher: Tensor, label: Tensor, *, ignore_index: int = 255, power: float = 2.0
        ) -> Tensor:
            assert not teacher.requires_grad and ignore_index == 7
            return (self.layers[0](student) - self.layers[1](teacher)).abs().pow(power).mean().bfloat16()

    term = Term("Projected", student_channels=2, teacher_channels=3, num_classes=4, ignore_index=7, params={"width": 6})
    assert term.built_in == ("width",) and term.needs_label and term.module is not None and term.module.classes == 4
    assert {name: tuple(p.shape) for name, p in term.named_parameters()}["module.layers.1.weight"] == (6, 3, 1, 1)
    label = torch.zeros(1, 4, 4, dtype=torch.long)
    value = term(torch.randn(1, 2, 4, 4), torch.randn(1, 3, 4, 4, requires_grad=True), label)
    assert value.dtype == torch.float32 and value.requires_grad
    assert check_params("Projected", {"widht": 1}, "features") == [
        "widht is not a parameter: Projected on features takes width, power; did you mean 'width'?"
    ]


def test_several_layers() -> None:
    @register("Layered", on=("features",), weight=1.0, layers=True, channels="any")
    def layered(students: list[Tensor], teachers: list[Tensor]) -> Tensor:
        return torch.stack([(s.mean() - t.mean()).square() for s, t in zip(students, teachers, strict=True)]).sum()

    term = Term("Layered", student_channels=1, teacher_channels=1, num_classes=2)
    ones, threes = torch.ones(1, 1, 2, 2), torch.full((1, 1, 2, 2), 3.0)
    assert term([ones, ones], [threes, threes]).item() == 8.0 and term(ones, threes).item() == 4.0


def test_several_layers_of_a_module() -> None:
    """It gets the student's layers as they are, and the teacher's without a gradient."""

    @register("LayeredModule", on=("features",), weight=1.0, layers=True, channels="any")
    class Layered(nn.Module):
        def __init__(self, student_channels: int, teacher_channels: int) -> None:
            super().__init__()

        def forward(self, students: list[Tensor], teachers: list[Tensor]) -> Tensor:
            assert not any(teacher.requires_grad for teacher in teachers)
            return torch.stack([(s.mean() - t.mean()).square() for s, t in zip(students, teachers, strict=True)]).sum()

    term = Term("LayeredModule", student_channels=1, teacher_channels=1, num_classes=2)
    teachers = [torch.full((1, 1, 2, 2), value, requires_grad=True) for value in (3.0, 4.0)]
    assert term([torch.ones(1, 1, 4, 4), torch.ones(1, 2, 2, 2)], teachers).item() == 4.0 + 9.0


def of(student: Any, teacher: Any, *, tau: float = 1.0) -> Any:
    """What the wrong declarations below decorate."""


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (dict(on=("feature",)), "on must be ('logits',), ('features',) or both, got ('feature',)"),
        (dict(on="logits"), "on must be ('logits',), ('features',) or both, got 'logits'"),
        (dict(weight=-1), "weight must be a number >= 0, got -1"),
        (dict(weight=math.nan), "weight must be a number >= 0, got nan"),
        (dict(weight_on_features=math.inf), "weight_on_features must be a number >= 0, got inf"),
        (dict(channels="same"), "channels must be 'equal', 'projected' or 'any', got 'same'"),
        (dict(label=True), "is declared with label=True, but takes no argument `label`"),
        (
            dict(params={"tua": Number()}),
            "tua is declared, but is no keyword-only parameter of the function; did you mean",
        ),
    ],
)
def test_a_wrong_declaration(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError) as caught:
        register("Wrong", **{"on": ("logits",), "weight": 1.0, **options})(of)
    (actual,) = caught.value.problems
    assert actual.startswith(f"loss 'Wrong' of {__name__}: {problem}")
    assert actual.endswith(problem) or "did you mean" in actual
    assert "Wrong" not in LOSSES


def test_every_mistake_of_a_declaration_is_said_at_once() -> None:
    def labelled(student: Any, teacher: Any, label: Any) -> Any:
        """Needs labels."""

    wrong: dict[str, Any] = dict(
        on=(), weight=True, weight_on_features="high", channels="same", at="image", label=False
    )  # fmt: skip
    with pytest.raises(UserError) as caught:
        register("Wrong", **wrong)(labelled)
    assert [problem.removeprefix(f"loss 'Wrong' of {__name__}: ") for problem in caught.value.problems] == [
        "on must be ('logits',), ('features',) or both, got ()",
        "weight must be a number >= 0, got True",
        "weight_on_features must be a number >= 0, got 'high'",
        "channels must be 'equal', 'projected' or 'any', got 'same'",
        "at must be 'label' or 'logits', got 'image'",
        "takes a label, but is declared with label=False",
    ]


def test_what_is_not_said_of_a_loss() -> None:
    """Weight 0 is one; a label is needed if the function takes one, and may be needed by the module around it."""

    def plain(student: Any, teacher: Any) -> Any:
        """Takes no labels."""

    def labelled(student: Any, teacher: Any, label: Any) -> Any:
        """Needs labels."""

    info = LOSSES[register("Plain", on=["features"], weight=0)(plain) and "Plain"]
    assert (info.name, info.on, info.weight, info.weight_on_features, info.params) == (
        "Plain",
        ("features",),
        0,
        None,
        {},
    )
    assert (info.channels, info.constant_over, info.at, info.module, info.exchanges) == (
        "equal",
        (),
        "logits",
        None,
        (),
    )
    assert (info.softmax, info.layers, info.label, info.buffers) == (False, False, False, False)
    assert (info.paper, info.formula, info.use_when, info.function) == ("", "", "", "plain")
    assert info.default_weight("features") == info.default_weight("logits") == 0 and info.load_module() is None
    register("Labelled", on=("logits", "features"), weight=2.0, weight_on_features=0.0)(labelled)
    assert LOSSES["Labelled"].label and LOSSES["Labelled"].default_weight("features") == 0.0
    register("Around", on=("features",), weight=1.0, label=True, module="torch.nn:Identity")(plain)
    assert LOSSES["Around"].label and LOSSES["Around"].load_module() is nn.Identity


def test_a_built_in_is_not_shadowed() -> None:
    with pytest.raises(UserError, match=r"^loss 'KL' of .*\.of is rdistill's own already; register it under another"):
        register("KL", on=("logits",), weight=1.0)(of)


def test_an_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "of_installed.py").write_text(
        "from rdistill.losses import register\n"
        "@register('Installed', on=('logits',), weight=4.0)\n"
        "def installed(student, teacher): return (student - teacher).abs().max()\n"
    )
    folder = tmp_path / "of_installed-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: of-installed\nVersion: 1\n")
    (folder / "entry_points.txt").write_text("[rdistill.losses]\nInstalled = of_installed\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(LOSSES, "_installed", None)
    assert "of_installed" not in sys.modules and "Installed" in list(LOSSES)
    assert LOSSES["Installed"].weight == 4.0 and isinstance(LOSSES, Registry)
    monkeypatch.delitem(sys.modules, "of_installed")


def test_what_a_loss_exchanges_is_declared() -> None:
    """On one worker too, so that the first test of a loss shows it."""

    def counted(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None) -> Tensor:
        return mean_where((student - teacher).abs(), full_mask(mask, student))

    def gathered(student: Tensor, teacher: Tensor) -> Tensor:
        return (collectives.gather(student) - collectives.gather(teacher)).abs().mean()

    register("Counted", on=("features",), weight=1.0)(counted)
    register("Gathered", on=("features",), weight=1.0, exchanges=("counts",))(gathered)
    register("Declared", on=("features",), weight=1.0, exchanges=("embeddings",))(gathered)
    features = torch.zeros(1, 3, 2, 2, requires_grad=True), torch.ones(1, 3, 2, 2)
    for name, problem in (
        (
            "Counted",
            r"loss 'Counted': exchanges 'counts' or 'statistics' between workers, and does not declare",
        ),
        (
            "Gathered",
            r"loss 'Gathered': exchanges 'embeddings' between workers, and does not declare it; r",
        ),
    ):
        with pytest.raises(UserError, match=problem):
            Term(name, student_channels=3, teacher_channels=3, num_classes=2)(*features)
    assert Term("Declared", student_channels=3, teacher_channels=3, num_classes=2)(*features) == 1.0


def test_buffers_are_declared() -> None:
    class Normed(nn.Module):
        def __init__(self, student_channels: int, teacher_channels: int) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(teacher_channels)

        def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
            return (student - self.norm(teacher)).abs().mean()

    class Plain(Normed):
        def __init__(self, student_channels: int, teacher_channels: int) -> None:
            super().__init__(student_channels, teacher_channels)
            self.norm = nn.Identity()

    register("Normed", on=("features",), weight=1.0)(Normed)
    register("Plain", on=("features",), weight=1.0, buffers=True)(Plain)
    for name, problem in (
        (
            "Normed",
            "loss 'Normed': its module has buffers (norm.running_mean), and it is declared with buffers=False; "
            "register it with buffers=True",
        ),
        (
            "Plain",
            "loss 'Plain': its module has no buffers, and it is declared with buffers=True; register it with "
            "buffers=False",
        ),
    ):
        with pytest.raises(UserError) as caught:
            Term(name, student_channels=3, teacher_channels=3, num_classes=2)
        assert caught.value.problems == (problem,)


@pytest.mark.parametrize(("name", "on"), EVERY_TERM)
def test_rdistill_s_losses_declare_what_they_do(name: str, on: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than they exchange, either."""
    used: set[str] = set()

    def watched(function: Callable[[Tensor], Tensor], kind: str) -> Callable[[Tensor], Tensor]:
        def noted(x: Tensor) -> Tensor:
            used.add(kind)
            return function(x)

        return noted

    monkeypatch.setattr(collectives, "mean", watched(collectives.mean, "counts or statistics"))
    monkeypatch.setattr(collectives, "gather", watched(collectives.gather, "embeddings"))
    term = make_term(name, on)
    student, teacher, label = make_batch(on)
    term(*([student], [teacher]) if LOSSES[name].layers and on == "features" else (student, teacher), label)
    declared = {kind if kind == "embeddings" else "counts or statistics" for kind in LOSSES[name].exchanges}
    assert used == declared
