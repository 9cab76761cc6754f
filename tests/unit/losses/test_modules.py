"""The losses as configured terms: adapters, state, parameters, and the one dict that describes them."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from loss_terms import CLASSES, EVERY_TERM, SMALL, make_batch, make_term
from torch import Tensor, nn

from rdistill.core.errors import UserError
from rdistill.losses import LOSSES, Adapter, Term, check_params, functional, register
from rdistill.losses.layers import AfDCD
from rdistill.losses.modules import MGD, CIRKDMemory, ClassQueue

every_term = pytest.mark.parametrize(("name", "on"), EVERY_TERM)


@pytest.fixture(autouse=True)
def one_thread_and_a_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


# ---------------------------------------------------------------------------------------------------------
# The adapter


def test_adapter_has_parameters_only_where_channels_differ() -> None:
    assert not list(Adapter(4, 4).parameters())
    assert [tuple(p.shape) for p in Adapter(4, 6).parameters()] == [(6, 4, 1, 1), (6,)]
    assert [tuple(p.shape) for p in Adapter(4, 4, always=True).parameters()] == [(4, 4, 1, 1), (4,)]


def test_adapter_brings_channels_and_size() -> None:
    x = torch.randn(2, 4, 4, 6)
    assert Adapter(4, 6)(x, (8, 5)).shape == (2, 6, 8, 5)
    assert Adapter(4, 4)(x, (4, 6)) is x
    expected = F.interpolate(x, size=(8, 12), mode="bilinear", align_corners=False)
    assert torch.equal(Adapter(4, 4)(x, (8, 12)), expected)


def test_adapter_runs_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert Adapter(4, 6)(torch.randn(1, 4, 2, 2), (4, 4)).dtype == torch.bfloat16


# ---------------------------------------------------------------------------------------------------------
# Terms: every loss on everything it takes


@every_term
@pytest.mark.parametrize("student_size", [4, 8, 12])
def test_sizes_and_channels_may_differ(name: str, on: str, student_size: int) -> None:
    term = make_term(name, on)
    student, teacher, label = make_batch(on, student_size=student_size)
    teacher.requires_grad_()
    value = term(student, teacher, label)
    value.backward()
    assert value.shape == () and value.dtype == torch.float32 and value.isfinite() and value > 0
    assert teacher.grad is None
    assert student.grad is not None and student.grad.isfinite().all() and student.grad.abs().sum() > 0


@every_term
def test_every_parameter_gets_a_gradient_even_when_all_is_ignored(name: str, on: str) -> None:
    """What DDP needs. find_unused_parameters would hide it, and cost a walk over the graph each step."""
    student, teacher, label = make_batch(on)
    for ignored in (False, True):
        term = make_term(name, on)
        value = term(student, teacher, torch.full_like(label, 255) if ignored else label)
        value.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in term.parameters())
        assert value.isfinite() and student.grad is not None and student.grad.isfinite().all()
        if ignored and term.needs_label:
            assert value.item() == 0.0 and not student.grad.any()
            assert all(not p.grad.any() for p in term.parameters() if p.grad is not None)
        student.grad = None


@every_term
def test_under_autocast_the_loss_is_float32(name: str, on: str) -> None:
    term = make_term(name, on)
    student, teacher, label = make_batch(on)
    with torch.autocast("cpu", torch.bfloat16):
        value = term(student.bfloat16(), teacher.bfloat16(), label)
    value.backward()
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@every_term
def test_a_term_on_logits_never_has_parameters(name: str, on: str) -> None:
    if on == "logits":
        assert not list(make_term(name, on).parameters())


@pytest.mark.parametrize("name", [name for name, info in LOSSES.items() if "features" in info.on])
def test_similarity_losses_need_no_adapter(name: str) -> None:
    has_weights = bool(list(make_term(name, "features").parameters()))
    assert has_weights == (name not in ("SKD", "IFVD", "CIRKD", "AT"))


@every_term
def test_a_term_is_the_function_on_what_it_matched(name: str, on: str) -> None:
    """With equal sizes and channels there is nothing to match, and the mask is the label's."""
    if name in ("FitNet", "MGD", "CIRKDMemory", "AfDCD", "Theia"):
        pytest.skip("has weights of its own")
    x, teacher, label = torch.randn(2, 3, 16, 16), torch.randn(2, 3, 16, 16), make_batch(on)[2]
    term = Term(name, student_channels=3, teacher_channels=3, num_classes=3, params={}, on_logits=on == "logits")
    function = LOSSES[name].load()
    takes = inspect.signature(function).parameters
    options: dict[str, Any] = dict(LOSSES[name].defaults)
    if "mask" in takes and on == "logits":
        options["mask"] = label != 255
    if "label" in takes:
        options["label"] = label
    if "num_classes" in takes:
        options["num_classes"] = 3
    assert torch.equal(term(x, teacher, label), function(x, teacher, **options))


OTHER_VALUES = {"per_class": True, "standardize": True, "grid": 3, "mask_ratio": 0.25, "pixels_per_class": 4}


@every_term
def test_params_in_force_are_those_used(name: str, on: str) -> None:
    """A parameter changes the loss, whether given when the term is built or set in ``params`` afterwards."""
    batch = make_batch(on)
    before = make_term(name, on)
    state = {key: value.clone() for key, value in before.state_dict().items()}

    def value_of(term: Term) -> float:
        term.load_state_dict(state)
        torch.manual_seed(1)
        return float(term(*batch))

    for param, default in before.params.items():
        if param in before.built_in:
            continue
        swapped = {"label": "logits", "logits": "label"}
        new_value = swapped[default] if param == "at" else OTHER_VALUES.get(param, 2 * default)
        built, changed = make_term(name, on, **{param: new_value}), make_term(name, on)
        changed.params[param] = new_value
        assert built.params == changed.params
        assert value_of(built) == value_of(changed) != value_of(before), param


def test_logits_of_other_classes_are_an_error_that_names_both() -> None:
    for name in ("KL", "CWD", "DKD"):
        with pytest.raises(
            UserError, match=r"student of 2 and a teacher of 19; map the .* by its `classes`, or distil"
        ):
            Term(name, student_channels=2, teacher_channels=19, num_classes=19, params={}, on_logits=True)


# ---------------------------------------------------------------------------------------------------------
# One channel: the logit of a sigmoid, or a feature without a direction


def two_class_term(name: str, student: int, teacher: int, **params: Any) -> Term:
    return Term(
        name, student_channels=student, teacher_channels=teacher, num_classes=2, params=params, on_logits=True
    )  # fmt: skip


def two_class_batch() -> tuple[Tensor, Tensor, Tensor]:
    """Student's and teacher's logit of class 1, of other sizes, and a label with ignored pixels."""
    label = torch.randint(0, 2, (2, 16, 16))
    label[:, :5] = 255
    return torch.randn(2, 1, 4, 4, requires_grad=True), 3 * torch.randn(2, 1, 8, 8), label


def as_two(z: Tensor, shift: float = 0.0) -> Tensor:
    """Logits of two classes with the same probabilities; ``shift`` changes none of them."""
    return torch.cat([torch.full_like(z, shift), z + shift], dim=1)


def test_kl_of_one_channel_is_that_of_the_sigmoids() -> None:
    student, teacher, label = two_class_batch()
    value = two_class_term("KL", 1, 1, tau=2.0)(student, teacher, label)
    p, q = (
        F.interpolate(z.double(), (16, 16), mode="bilinear", align_corners=False).div(2).sigmoid()
        for z in (teacher, student)
    )
    per_pixel = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    assert value.item() == pytest.approx(4 * per_pixel[label.unsqueeze(1) != 255].mean().item(), rel=1e-5)


@pytest.mark.parametrize("params", [{}, {"at": "logits"}, {"at": "label"}])
@pytest.mark.parametrize("name", ["KL", "DKD", "DIST", "CWD", "L1", "L2", "DSD"])
def test_one_channel_is_two_classes(name: str, params: dict[str, Any]) -> None:
    """A student or a teacher of one channel reads as that of two with the same probabilities, in value and gradient."""
    student, teacher, label = two_class_batch()

    def value_and_gradient(term: Term, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        value = term(s, t, label)
        (gradient,) = torch.autograd.grad(value, student)
        return value.detach(), gradient

    expected = value_and_gradient(two_class_term(name, 1, 1, **params), student, teacher)
    assert expected[0] > 0 and expected[1].abs().sum() > 0
    pairs = {
        (1, 2): (student, as_two(teacher, 0.5)),
        (2, 1): (as_two(student, -0.25), teacher),
    }
    if name in ("KL", "DKD", "DIST"):
        pairs[2, 2] = as_two(student, 0.75), as_two(teacher)
    for channels, (s, t) in pairs.items():
        actual = value_and_gradient(two_class_term(name, *channels, **params), s, t)
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)


def test_paddleseg_s_division_counts_two_classes() -> None:
    student, teacher, label = two_class_batch()
    whole, halved = (two_class_term("KL", 1, 1, per_class=flag)(student, teacher, label) for flag in (False, True))
    torch.testing.assert_close(halved * 2, whole)


@pytest.mark.parametrize("name", ["IFVD", "CIRKDMemory"])
def test_the_foreground_counts_under_a_head_of_one_channel(name: str) -> None:
    """Labels are of the data's two classes, however many channels the student's head has."""
    student, teacher, label = make_batch("features")
    foreground = torch.full_like(label, 1)
    term = Term(name, student_channels=4, teacher_channels=6, num_classes=2, params=SMALL.get(name))
    value = term(student, teacher, foreground)
    assert value > 0 and torch.autograd.grad(value, student)[0].abs().sum() > 0


@pytest.mark.parametrize("channels", [(1, 1), (1, 2), (2, 1)])
def test_a_cosine_of_one_channel_of_logits_is_an_error(channels: tuple[int, int]) -> None:
    with pytest.raises(UserError, match=r"out_channels=1.*nothing can be learnt; use KL or L2"):
        two_class_term("Cosine", *channels)


def test_one_channel_and_nineteen_classes_are_an_error() -> None:
    for name in ("KL", "L2", "CWD"):
        for channels in ((1, 19), (19, 1)):
            with pytest.raises(UserError, match=f"student of {channels[0]} and a teacher of {channels[1]}"):
                two_class_term(name, *channels)


FEATURES = [name for name, info in LOSSES.items() if "features" in info.on]


@pytest.mark.parametrize("channels", [(1, 1), (1, 6), (4, 1)])
@pytest.mark.parametrize("name", FEATURES)
def test_a_feature_of_one_channel_teaches_or_is_refused(name: str, channels: tuple[int, int]) -> None:
    try:
        term = Term(
            name, student_channels=channels[0], teacher_channels=channels[1], num_classes=CLASSES,
            params=SMALL.get(name),
        )  # fmt: skip
    except UserError as error:
        side = "teacher" if channels[1] == 1 else "student"
        assert f"{name}: the {side}'s feature has one channel" in str(error)
        needs = ("SKD", "IFVD", "CIRKD") if side == "student" else (
            "KL", "DIST", "Cosine", "SKD", "IFVD", "CIRKD", "CIRKDMemory", "AfDCD"
        )  # fmt: skip
        assert name in needs
        return
    student = torch.randn(2, channels[0], 8, 8, requires_grad=True)
    value = term(student, torch.randn(2, channels[1], 8, 8), make_batch("features")[2])
    assert torch.autograd.grad(value, student)[0].abs().sum() > 1e-6


@pytest.mark.parametrize("name", FEATURES)
def test_a_feature_of_one_position_teaches_or_is_refused(name: str) -> None:
    """Pooled to 1 x 1, as in a pyramid's or ASPP's first branch."""
    student = torch.randn(4, 4, 1, 1, requires_grad=True)
    teacher, label = torch.randn(4, 6, 1, 1), torch.randint(0, CLASSES, (4, 16, 16))
    try:
        value = make_term(name, "features", **({"mask_ratio": 0.0} if name in ("MGD", "AfDCD") else {}))(
            student, teacher, label
        )
    except UserError as error:
        assert f"{name}: the teacher's feature is 1 x 1" in str(error)
        assert name in ("CWD", "SKD", "IFVD", "CIRKD", "AT", "DSD")
        return
    assert torch.autograd.grad(value, student)[0].abs().sum() > 1e-6


def test_logits_of_one_channel_may_be_what_was_meant() -> None:
    with pytest.raises(UserError, match="or KL with on='logits'"):
        Term("KL", student_channels=4, teacher_channels=1, num_classes=2)


# ---------------------------------------------------------------------------------------------------------
# What a term asks for


@pytest.mark.parametrize(
    ("name", "channels", "options", "problem"),
    [
        (
            "CWD", (2, 19), {"on_logits": True},
            "CWD: logits must have as many classes, got a student of 2 and a teacher of 19; map the teacher's "
            "classes to the student's by its `classes`, or distil features instead",
        ),
        (
            "Cosine", (1, 2), {"on_logits": True},
            "Cosine: logits of one channel (out_channels=1) have no direction but their sign, nothing can be learnt; "
            "use KL or L2",
        ),
        (
            "DKD", (2, 2), {"on_logits": True, "params": {"standardize": True}},
            "DKD: standardize=True needs at least 3 classes, got 2: with fewer nothing can be learnt; leave "
            "standardize out",
        ),
        (
            "KL", (2, 1), {"on_logits": True, "params": {"standardize": True}},
            "KL: standardize=True needs at least 3 classes, got 2: with fewer nothing can be learnt; leave "
            "standardize out",
        ),
        (
            "KL", (4, 2), {"params": {"standardize": True}},
            "KL: standardize=True needs at least 3 channels, got 2: with fewer nothing can be learnt; leave "
            "standardize out",
        ),
        (
            "Cosine", (4, 1), {},
            "Cosine: the teacher's feature has one channel, over which Cosine is constant: nothing can be learnt; "
            "choose a feature of several channels, or CWD, AT or L2",
        ),
        (
            "SKD", (1, 4), {},
            "SKD: the student's feature has one channel, over which SKD is constant: nothing can be learnt; choose a "
            "feature of several channels, or CWD, AT or L2",
        ),
        (
            "KL", (4, 1), {},
            "KL: the teacher's feature has one channel, over which KL is constant: nothing can be learnt; choose a "
            "feature of several channels, or CWD, AT or L2, or KL with on='logits'",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_learnt_is_said_with_its_remedy(
    name: str, channels: tuple[int, int], options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(UserError) as caught:
        Term(name, student_channels=channels[0], teacher_channels=channels[1], num_classes=2, **options)
    assert caught.value.problems == (problem,)


def test_a_single_position_is_named_with_its_remedy() -> None:
    with pytest.raises(UserError) as caught:
        make_term("AT", "features")(torch.randn(1, 4, 1, 1), torch.randn(1, 6, 1, 1))
    assert caught.value.problems == (
        "AT: the teacher's feature is 1 x 1, and one position has nothing to be compared with: nothing can be learnt; "
        "choose a feature of more positions, or L2 or Cosine",
    )
    for size in ((1, 2), (2, 1)):  # two positions can be compared
        assert make_term("AT", "features")(torch.randn(1, 4, *size), torch.randn(1, 6, *size)).isfinite()


def test_bad_params_are_all_reported_at_once() -> None:
    with pytest.raises(UserError) as error:
        Term("KL", student_channels=2, teacher_channels=2, num_classes=2, params={"tua": 1, "tau": 0})
    assert error.value.problems == (
        "KL: tua is not a parameter: KL on features takes tau, per_class, standardize; did you mean 'tau'?",
        "KL: tau is a temperature and must be > 0, got 0",
    )


def test_a_missing_or_misshapen_label_is_an_error() -> None:
    student, teacher, label = make_batch("logits")
    term = make_term("KL", "logits")
    with pytest.raises(ValueError, match=r"^KL needs the label \(N x H x W\)$"):
        term(student, teacher, None)
    with pytest.raises(ValueError, match=r"^KL: label must be N x H x W, got \(2, 1, 16, 16\)$"):
        term(student, teacher, label.unsqueeze(1))
    with pytest.raises(ValueError, match=r"^logits must be one tensor, got 2; several layers go on features$"):
        term([student, student], teacher, label)
    feature_student, feature_teacher, _ = make_batch("features")
    assert make_term("CWD", "features")(feature_student, feature_teacher).isfinite()


def test_kl_at_the_label_upsamples_both_logits_as_paddleseg_does() -> None:
    student, teacher, label = make_batch("logits")
    value = make_term("KL", "logits", per_class=True)(student, teacher, label)
    up_s, up_t = (F.interpolate(x, (16, 16), mode="bilinear", align_corners=False) for x in (student, teacher))
    p_t = up_t.softmax(1)
    per_element = p_t * (p_t.log() - up_s.log_softmax(1))
    valid = (label != 255).unsqueeze(1).expand_as(per_element)
    assert value.item() == pytest.approx(per_element[valid].mean().item(), rel=1e-5)


def test_kl_at_the_logits_takes_the_teachers_resolution() -> None:
    student, teacher, label = make_batch("logits")
    value = make_term("KL", "logits", at="logits")(student, teacher, label)
    up_s = F.interpolate(student, (8, 8), mode="bilinear", align_corners=False)
    assert torch.equal(value, functional.kl(up_s, teacher, mask=label[:, ::2, ::2] != 255))


def test_another_ignore_index() -> None:
    student, teacher, label = make_batch("logits")
    zero = Term("KL", student_channels=3, teacher_channels=3, num_classes=3, ignore_index=0, params={}, on_logits=True)
    assert torch.equal(zero(student, teacher, label.new_zeros(label.shape)), torch.tensor(0.0))
    renamed = torch.where(label == 255, 0, label.clamp(1))
    same = Term("KL", student_channels=3, teacher_channels=3, num_classes=3, params={}, on_logits=True)
    torch.testing.assert_close(zero(student, teacher, renamed), same(student, teacher, label))


def test_dsd_takes_lists_of_layers() -> None:
    term = make_term("DSD", "features")
    sizes = (((2, 8), (3, 6), (4, 4)), ((5, 8), (7, 5), (6, 6)))
    student, teacher = ([torch.randn(2, c, n, n) for c, n in layers] for layers in sizes)
    student[0].requires_grad_()
    value = term(student, teacher, None)
    assert term.adapter is not None
    assert torch.equal(value, functional.dsd([*student[:2], term.adapter(student[2], (6, 6))], teacher))
    value.backward()
    assert student[0].grad is not None
    assert student[0].grad.abs().sum() > 0
    with pytest.raises(ValueError, match="as many layers"):
        term(student, teacher[1:], None)


@pytest.mark.parametrize(("name", "on"), [term for term in EVERY_TERM if term[1] == "logits" or LOSSES[term[0]].label])
def test_another_ignored_label_than_255(name: str, on: str) -> None:
    student, teacher, label = make_batch(on)
    label = torch.where(label == 255, 2, label)
    channels = dict(student_channels=student.shape[1], teacher_channels=teacher.shape[1], num_classes=CLASSES)
    values = []
    state: dict[str, Tensor] = {}
    for ignored, marked in ((2, label), (255, torch.where(label == 2, 255, label)), (255, label)):
        term = Term(name, **channels, ignore_index=ignored, params=SMALL.get(name), on_logits=on == "logits")
        state = state or {key: value.clone() for key, value in term.state_dict().items()}
        term.load_state_dict(state)
        torch.manual_seed(1)
        values.append(term(student, teacher, marked))
    assert torch.equal(values[0], values[1]) and not torch.equal(values[0], values[2])


def test_term_says_what_it_is() -> None:
    assert make_term("CWD", "logits", tau=2.0).extra_repr() == "CWD, on=logits, {'tau': 2.0, 'at': 'logits'}"
    assert make_term("CWD", "features").extra_repr() == "CWD, on=features, {'tau': 4.0}"


def test_a_loss_about_labels_looks_where_the_labels_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it takes a mask beside them: pixels that are seen without a label are not for it."""
    monkeypatch.setattr(LOSSES, "_entries", dict(LOSSES._entries))
    monkeypatch.setattr(LOSSES, "_sources", dict(LOSSES._sources))
    given: dict[str, Tensor] = {}

    def labelled(student: Tensor, teacher: Tensor, label: Tensor, *, mask: Tensor | None = None) -> Tensor:
        assert mask is not None
        given.update(label=label, mask=mask)
        return (student - teacher).mean()

    def masked(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None) -> Tensor:
        assert mask is not None
        given.update(mask=mask)
        return (student - teacher).mean()

    student, teacher, label = make_batch("logits")
    seen = torch.rand(label.shape) < 0.5
    for function, expected in ((labelled, label != 255), (masked, seen)):
        register(function.__name__, on=("logits",), weight=1.0, at="label")(function)
        term = Term(function.__name__, student_channels=3, teacher_channels=3, num_classes=3, on_logits=True)
        term(student, teacher, label, seen)
        assert torch.equal(given["mask"], expected)
    assert torch.equal(given["label"], label)


# ---------------------------------------------------------------------------------------------------------
# Losses with state


def test_mgd_masks_whole_positions_at_the_given_rate() -> None:
    module = MGD(4, 4)
    seen: list[Tensor] = []
    module.generate.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.randn(8, 4, 32, 32).abs() + 1
    module(x, x, mask_ratio=0.75)
    dead = (seen[0] == 0).all(dim=1)
    assert torch.equal(dead, (seen[0] == 0).any(dim=1))
    assert dead.float().mean().item() == pytest.approx(0.75, abs=0.02)
    module(x, x, mask_ratio=0.0)
    assert torch.equal(seen[1], x)


def test_the_defaults_of_losses_with_state_are_the_published_ones() -> None:
    student, teacher = torch.randn(1, 4, 40, 40), torch.randn(1, 6, 40, 40)
    label = torch.randint(0, 2, (1, 40, 40))
    label[:, :9] = 255
    mgd, memory = MGD(4, 6), CIRKDMemory(4, 6, 300, pixel_queue_size=64, region_queue_size=8)
    of_memory = dict(
        ignore_index=255, tau=0.1, kd_tau=1.0, grid=32, pixels_per_class=16, pixel_contrast_size=4096,
        region_contrast_size=1024,
    )  # fmt: skip
    of_authors = CIRKDMemory(1, 1, 1)
    assert (of_authors.pixels.size, of_authors.regions.size) == (20000, 2000)
    state = {key: value.clone() for key, value in memory.state_dict().items()}
    values = []
    for of_mgd, params in (({}, {}), (dict(mask_ratio=0.75), of_memory)):
        torch.manual_seed(1)
        memory.load_state_dict(state)
        values.append((mgd(student, teacher, **of_mgd), memory(student, teacher, label, **params)))
        assert memory.pixels.written[:3].tolist() == [16, 16, 0] and memory.regions.written.sum() == 2
    assert torch.equal(values[0][0], values[1][0]) and torch.equal(values[0][1], values[1][1])


def test_fitnet_has_a_convolution_even_between_equal_channels() -> None:
    term = Term("FitNet", student_channels=4, teacher_channels=4, num_classes=2, params={})
    assert isinstance(term.adapter, Adapter)
    assert isinstance(term.adapter.project, nn.Conv2d)


def test_what_the_modules_are_made_of() -> None:
    """MGD: conv3, ReLU, conv3; CIRKD's projection: conv1, BatchNorm, ReLU, conv1, without biases."""
    mgd, memory = MGD(4, 4), CIRKDMemory(4, 6, 2, pixel_queue_size=8, region_queue_size=8)
    x = torch.randn(2, 4, 5, 6)
    first, second = mgd.generate[0], mgd.generate[2]
    hidden = F.conv2d(x, first.weight, first.bias, padding=1).relu()
    expected = F.conv2d(hidden, second.weight, second.bias, padding=1)
    torch.testing.assert_close(mgd.generated(x, expected, mask_ratio=0.0), expected)
    assert [tuple(p.shape) for p in mgd.parameters()] == [(4, 4, 3, 3), (4,), (4, 4, 3, 3), (4,)]
    shapes = {name: tuple(p.shape) for name, p in memory.named_parameters()}
    assert shapes == {
        "project.0.weight": (6, 4, 1, 1), "project.1.weight": (6,), "project.1.bias": (6,),
        "project.3.weight": (6, 6, 1, 1),
    }  # fmt: skip
    hidden = F.conv2d(x, memory.project[0].weight)
    mean, variance = hidden.mean(dim=(0, 2, 3), keepdim=True), hidden.var(dim=(0, 2, 3), correction=0, keepdim=True)
    expected = F.conv2d(((hidden - mean) / (variance + 1e-5).sqrt()).relu(), memory.project[3].weight)
    torch.testing.assert_close(memory.project(x), expected)


def projected_by(memory: CIRKDMemory, student: Tensor, label: Tensor, **params: Any) -> Tensor:
    """What the projection of a memory is given."""
    seen: list[Tensor] = []
    memory.project.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    memory(student, torch.randn(len(student), 6, *label.shape[1:]), label, **params)
    return seen[0]


def test_ignored_positions_are_replaced_by_the_valid_ones_in_turn() -> None:
    memory = CIRKDMemory(1, 6, 2, pixel_queue_size=8, region_queue_size=8)
    student = torch.arange(1.0, 9.0).view(2, 1, 1, 4)
    label = torch.tensor([[[255, 0, 255, 255]], [[1, 255, 1, 255]]])  # 2, 5 and 7 are valid
    assert projected_by(memory, student, label).flatten().tolist() == [2, 2, 5, 7, 5, 2, 7, 5]
    for valid, expected in ((3, [4.0] * 8), (None, [0.0] * 8)):
        label = torch.full((2, 1, 4), 255)
        if valid is not None:
            label.view(-1)[valid] = 1
        memory = CIRKDMemory(1, 6, 2, pixel_queue_size=8, region_queue_size=8)
        assert projected_by(memory, student, label).flatten().tolist() == expected


def test_the_ignored_label_may_be_the_number_of_a_class() -> None:
    """Such as 0, of data whose background does not count."""
    memory = CIRKDMemory(1, 6, 3, pixel_queue_size=8, region_queue_size=8)
    student, label = torch.arange(1.0, 5.0).view(1, 1, 1, 4), torch.tensor([[[0, 1, 0, 2]]])
    assert projected_by(memory, student, label, ignore_index=0).flatten().tolist() == [2, 2, 4, 4]
    assert memory.regions.written.tolist() == memory.pixels.written.tolist() == [0, 1, 1]


def test_class_queue_is_a_ring_for_each_class() -> None:
    queue = ClassQueue(num_classes=2, size=3, channels=1)
    assert queue.keys.shape == (2, 3 + 1, 1)
    for step in range(5):
        keys = torch.tensor([[[10.0 + step], [-1.0]], [[20.0 + step], [30.0 + step]]])
        queue.push(keys, torch.tensor([[True, False], [step == 0, True]]))
    assert sorted(queue.keys[0, :3, 0].tolist()) == [12.0, 13.0, 14.0]
    assert sorted(queue.keys[1, :3, 0].tolist()) == [32.0, 33.0, 34.0]
    assert queue.written.tolist() == [5, 6]
    with pytest.raises(ValueError, match=r"^a queue of 3 cannot take 4 entries a class at once; enlarge it$"):
        queue.push(torch.zeros(2, 4, 1), torch.ones(2, 4, dtype=torch.bool))
    queue.push(torch.ones(2, 3, 1), torch.ones(2, 3, dtype=torch.bool))  # all of it at once
    assert queue.keys[:, :3].eq(1).all()


def test_class_queue_samples_only_what_was_written() -> None:
    queue = ClassQueue(num_classes=3, size=50, channels=1)
    queue.push(torch.arange(1.0, 7.0).view(3, 2, 1), torch.tensor([[True, True], [True, False], [False, False]]))
    keys, written = queue.sample(300)
    assert keys.shape == (303, 1)
    assert written.tolist() == [True] * 202 + [False] * 101
    assert set(keys[:101, 0].tolist()) == {1.0, 2.0}
    assert set(keys[101:202, 0].tolist()) == {3.0}


def test_memory_remembers_each_pixel_under_its_own_class() -> None:
    """A teacher whose feature is the class's own direction: so must every key of that class be."""
    memory = CIRKDMemory(4, CLASSES, CLASSES, pixel_queue_size=64, region_queue_size=8)
    label = torch.randint(0, CLASSES, (2, 8, 8))
    teacher = F.one_hot(label, CLASSES).movedim(3, 1).float() * 5
    label[:, :3] = 255
    memory(torch.randn(2, 4, 8, 8), teacher, label, pixels_per_class=4)
    for queue, written in ((memory.pixels, 2 * 4), (memory.regions, 2)):
        for index in range(CLASSES):
            assert queue.written[index] == written
            assert torch.equal(queue.keys[index, :written], torch.eye(CLASSES)[index].expand(written, CLASSES))


def ignoring_half() -> tuple[CIRKDMemory, Tensor, Tensor, Tensor, Tensor]:
    """A memory, student (4 x 8 x 8), teacher (6 x 8 x 8), a label that leaves the upper half out, and where that is."""
    label = torch.randint(0, CLASSES, (2, 8, 8))
    label[:, :4] = 255
    memory = CIRKDMemory(4, 6, CLASSES, pixel_queue_size=64, region_queue_size=8)
    return memory, torch.randn(2, 4, 8, 8), torch.randn(2, 6, 8, 8), label, (label == 255).unsqueeze(1)


@pytest.mark.parametrize("junk", [1e30, float("inf"), float("nan")])
def test_what_is_ignored_does_not_matter_to_the_memory(junk: float) -> None:
    """Neither to the projection's BatchNorm and its gradients, nor to what is remembered."""
    memory, student, teacher, label, ignored = ignoring_half()
    state = {key: value.clone() for key, value in memory.state_dict().items()}
    results = []
    for value in (0.5, junk):
        memory.load_state_dict(state)
        memory.zero_grad()
        torch.manual_seed(3)
        x = torch.where(ignored, value, student).requires_grad_()
        loss = memory(x, torch.where(ignored, value, teacher), label)
        loss.backward()
        results.append([loss, x.grad, *(p.grad.clone() for p in memory.parameters()), *memory.state_dict().values()])
        results[-1] = [result.detach().clone() for result in results[-1]]
    assert results[0][0] > 0 and all(result.isfinite().all() for result in results[1])
    for clean, dirty in zip(*results, strict=True):
        assert torch.equal(clean, dirty)
    assert not results[0][1][ignored.expand_as(student)].any()


def test_the_memorys_batch_norm_sees_valid_pixels_alone() -> None:
    memory, student, teacher, label, ignored = ignoring_half()
    memory(torch.where(ignored, 100.0, student), teacher, label)
    convolved = memory.project[0](student)[:, :, 4:]  # the lower half
    torch.testing.assert_close(memory.project[1].running_mean, 0.1 * convolved.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(
        memory.project[1].running_var, 0.9 + 0.1 * convolved.var(dim=(0, 2, 3)), rtol=0.02, atol=0
    )


def test_a_coarser_student_keeps_what_valid_pixels_are_interpolated_from() -> None:
    """4 x 4 cells under 8 x 8 pixels: of the rows that are ignored the lowest borders on valid ones, and stays."""
    memory, _, teacher, label, _ = ignoring_half()
    student = torch.randn(2, 4, 4, 4)
    projected: list[Tensor] = []
    memory.project.register_forward_pre_hook(lambda _, inputs: projected.append(inputs[0]))
    far = student.clone()
    far[:, :, 0] = float("nan")
    assert memory(far, teacher, label).isfinite()
    assert torch.equal(projected[0][:, :, 1:], student[:, :, 1:])
    rows = student[:, :, 1:].movedim(1, 3).reshape(-1, 4)
    for filled in projected[0][:, :, 0].movedim(1, 2).reshape(-1, 4):
        assert (rows == filled).all(dim=1).any()


def test_a_teacher_that_is_not_finite_leaves_the_memory_clean() -> None:
    """A NaN among the valid pixels is the run's to end; what was remembered lasts beyond this step."""
    memory, student, teacher, label, _ = ignoring_half()
    label[:, 4:] = torch.arange(8) % CLASSES
    teacher[0, 2, 5, 3], teacher[1, 0, 7, 4] = float("nan"), float("inf")
    teacher[1][:, label[1] == 2] = float("nan")  # a whole region
    assert memory(student, teacher, label).isnan()
    for queue in (memory.pixels, memory.regions):
        assert queue.keys.isfinite().all()
    assert memory.regions.written.tolist() == [2, 2, 1]
    lengths = memory.regions.keys[0, :2].norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(2))


def test_class_queue_refuses_what_is_not_finite() -> None:
    queue = ClassQueue(num_classes=1, size=3, channels=2)
    queue.push(
        torch.tensor([[[1.0, float("nan")], [float("inf"), 0.0], [1.0, 2.0]]]), torch.ones(1, 3, dtype=torch.bool)
    )
    assert queue.written.tolist() == [1] and queue.keys.isfinite().all()
    assert queue.keys[0, 0].tolist() == [1.0, 2.0]


def test_memory_forgets_nothing_across_a_resume_and_learns_only_in_training() -> None:
    student, teacher, label = make_batch("features")
    term, resumed = make_term("CIRKDMemory", "features"), make_term("CIRKDMemory", "features")
    term(student, teacher, label)
    resumed.load_state_dict(term.state_dict())
    values = []
    for each in (term, resumed):
        torch.manual_seed(3)
        values.append(each(student, teacher, label).item())
    assert values[0] == values[1]
    before = {key: value.clone() for key, value in term.state_dict().items()}
    term.eval()(student, teacher, label)
    assert all(torch.equal(value, before[key]) for key, value in term.state_dict().items())


def test_a_class_that_was_never_seen_is_not_compared_with() -> None:
    """Its places are sampled like the others' and left out: what they hold does not matter."""
    memory = CIRKDMemory(4, 6, CLASSES, pixel_queue_size=64, region_queue_size=8)
    student, teacher, label = torch.randn(2, 4, 8, 8), torch.randn(2, 6, 8, 8), torch.randint(0, CLASSES - 1, (2, 8, 8))
    memory(student, teacher, label)
    values = []
    for never_seen in (0.0, 0.7):
        for queue in (memory.pixels, memory.regions):
            queue.keys[CLASSES - 1] = never_seen
        torch.manual_seed(3)
        values.append(memory.eval()(student, teacher, label))
    assert torch.equal(*values)


def test_cirkd_memory_is_the_sum_of_its_pixel_part_and_its_region_part() -> None:
    memory = CIRKDMemory(4, 6, CLASSES, pixel_queue_size=64, region_queue_size=8)
    student, teacher, label = torch.randn(2, 4, 8, 8), torch.randn(2, 6, 8, 8), torch.randint(0, CLASSES, (2, 8, 8))
    memory(student, teacher, label)
    memory.eval()
    torch.manual_seed(3)
    value = memory(student, teacher, label, pixel_contrast_size=64, region_contrast_size=32)
    torch.manual_seed(3)
    parts = []
    for queue, size in ((memory.pixels, 64), (memory.regions, 32)):
        keys, key_mask = queue.sample(size)
        mask = torch.ones(2, 8, 8, dtype=torch.bool)
        parts.append(functional.cirkd_memory(memory.project(student), teacher, keys, mask=mask, key_mask=key_mask))
    assert min(parts) > 1e-3
    torch.testing.assert_close(value, parts[0] + parts[1])
    assert make_term("CIRKDMemory", "features").built_in == ("pixel_queue_size", "region_queue_size")


def test_cirkd_memory_of_a_student_that_is_the_teacher_is_zero() -> None:
    memory = CIRKDMemory(4, 4, CLASSES, pixel_queue_size=64, region_queue_size=8)
    memory.project = nn.Sequential(nn.Identity())
    x, label = torch.randn(2, 4, 8, 8), torch.randint(0, CLASSES, (2, 8, 8))
    assert memory(x, x.clone(), label).item() == pytest.approx(0.0, abs=1e-6)
    assert memory(-x, x.clone(), label).item() > 0.1


# ---------------------------------------------------------------------------------------------------------
# The dict that describes them


def test_defaults_are_those_of_the_code() -> None:
    plumbing = {"mask", "key_mask", "label", "ignore_index", "num_classes"}
    of_modules: dict[str, list[Any]] = {
        "MGD": [MGD.forward],
        "CIRKDMemory": [CIRKDMemory.__init__, CIRKDMemory.forward],
        "AfDCD": [AfDCD.__init__, AfDCD.forward],
    }
    for name, info in LOSSES.items():
        defaults: dict[str, Any] = {}
        for function in [info.load(), *of_modules.get(name, [])]:
            for parameter in inspect.signature(function).parameters.values():
                if parameter.kind is parameter.KEYWORD_ONLY and parameter.name not in plumbing:
                    assert defaults.setdefault(parameter.name, parameter.default) == parameter.default
        assert info.defaults == defaults, name
        assert {key: type(value) for key, value in info.defaults.items()} == {
            key: type(value) for key, value in defaults.items()
        }


def test_unknown_attribute() -> None:
    import rdistill.losses

    with pytest.raises(AttributeError, match="Tern"):
        _ = rdistill.losses.Tern  # type: ignore[attr-defined]


def test_default_weights() -> None:
    assert (LOSSES["CWD"].default_weight("logits"), LOSSES["CWD"].default_weight("features")) == (3.0, 50.0)
    assert (LOSSES["KL"].default_weight("logits"), LOSSES["KL"].default_weight("features")) == (3.0, 3.0)


@every_term
def test_defaults_pass_the_check(name: str, on: str) -> None:
    assert check_params(name, LOSSES[name].default_params(on), on) == []


@pytest.mark.parametrize(
    ("name", "params", "on", "problem"),
    [
        ("KLL", {}, "logits", f"type must be one of {', '.join(LOSSES)}, got 'KLL'; did you mean 'KL'?"),
        ("MGD", {}, "logits", "on must be 'features' for MGD, got 'logits'"),
        ("KL", {}, "logit", "on must be 'logits' or 'features' for KL, got 'logit'"),
        ("KL", {"tau": 0}, "logits", "tau is a temperature and must be > 0, got 0"),
        ("KL", {"tau": float("nan")}, "logits", "tau must be a finite number, got nan"),
        ("KL", {"tau": "4"}, "logits", "tau must be a finite number, got '4'"),
        ("KL", {"tau": True}, "logits", "tau must be a finite number, got True"),
        ("KL", {"per_class": 1}, "logits", "per_class must be true or false, got 1"),
        ("KL", {"at": "image"}, "logits", "at must be 'label' or 'logits', got 'image'"),
        ("KL", {"at": ["label"]}, "logits", "at must be 'label' or 'logits', got ['label']"),
        ("KL", {"at": "label"}, "features", "at is not a parameter: KL on features takes tau, per_class, standardize"),
        ("AT", {"tau": 1.0}, "features", "tau is not a parameter: AT on features takes no parameters"),
        ("SKD", {"grid": 0}, "features", "grid must be a whole number >= 1, got 0"),
        ("SKD", {"grid": 2.5}, "features", "grid must be a whole number >= 1, got 2.5"),
        ("SKD", {"grid": True}, "features", "grid must be a whole number >= 1, got True"),
        ("MGD", {"mask_ratio": 1.0}, "features", "mask_ratio is a share, must be >= 0 and < 1, got 1.0"),
        ("DKD", {"beta": -1}, "logits", "beta must be >= 0, got -1"),
        ("DKD", {"bta": 1}, "logits", "bta is not a parameter: DKD on logits takes tau, alpha, beta, standardize, at"),
    ],
)
def test_what_the_check_says(name: str, params: dict[str, Any], on: str, problem: str) -> None:
    (actual,) = check_params(name, params, on)
    assert actual.startswith(problem)


def test_the_documented_table_is_the_dict() -> None:
    text = (Path(__file__).parents[3] / "docs" / "losses.md").read_text(encoding="utf-8")
    rows = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 8 and cells[0].strip("`") in LOSSES:
            rows[cells[0].strip("`")] = cells[1:]
    assert list(rows) == list(LOSSES)
    for name, (paper, formula, defaults, weight, on, use_when, weakness) in rows.items():
        info = LOSSES[name]
        assert paper == info.paper
        assert formula.strip("`").replace("\\|", "|") == info.formula, name
        shown = [f"{key}={value!r}" for key, value in info.defaults.items()]
        shown += [f"at={info.at!r}"] if "logits" in info.on else []
        assert defaults == (", ".join(f"`{shown_default}`" for shown_default in shown) or "none"), name
        on_features = info.weight_on_features
        assert weight == f"{info.weight:g}" + (f"; features {on_features:g}" if on_features else ""), name
        assert on == ", ".join(info.on)
        assert use_when == info.use_when
        assert weakness
