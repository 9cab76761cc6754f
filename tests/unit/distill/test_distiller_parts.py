"""The Distiller around parts whose values are known: what it gives each of them, and what it makes of their results."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import Tiny
from mmengine.model import BaseDataPreprocessor, BaseModule
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from rdistill.config.distill_spec import ScheduleSpec, ShareSpec, UnlabeledSpec
from rdistill.core.errors import UserError
from rdistill.data.datasets import VIEW
from rdistill.data.unlabeled import MARK, NO_LABEL
from rdistill.distill import distiller as distiller_module
from rdistill.distill.batch_labels import BatchLabels
from rdistill.distill.distiller import Distiller, OwnTeachers, build_distiller, predicted_classes
from rdistill.distill.routes import Route
from rdistill.distill.teacher import EmaTeacher, Teacher
from rdistill.losses import LOSSES
from rdistill.models.checkpoint import MatchingWeights
from rdistill.models.class_map import ClassMap

HEIGHT, WIDTH = 32, 48
TASK = {"decode.loss_ce": torch.tensor(2.0), "decode.acc_seg": torch.tensor(50.0)}


class Student(BaseModule):
    """Returns given losses. Its layers are a head of logits, and one that makes the tokens of 2 x 3 patches."""

    def __init__(self, losses: dict[str, Any] | None = None, num_classes: int = 2) -> None:
        super().__init__()
        self.data_preprocessor = BaseDataPreprocessor()
        self.decode_head = nn.Conv2d(3, num_classes, kernel_size=1)
        self.decode_head.ignore_index = 255
        self.patches = nn.Conv2d(3, 4, kernel_size=16, stride=16)
        self.tokens = nn.Identity()
        self.given = TASK if losses is None else losses
        self.calls: list[tuple[Any, Any, str]] = []

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = "tensor") -> str:
        self.calls.append((inputs, data_samples, mode))
        return f"the student's {mode}"

    def loss(self, inputs: Tensor, samples: Any) -> dict[str, Any]:
        self.decode_head.forward(inputs)
        self.tokens.forward(self.patches(inputs).flatten(2).transpose(1, 2))
        self.samples = samples
        return dict(self.given)


class FixedTeacher:
    """Returns given outputs, and remembers what it was called with."""

    def __init__(self, outputs: dict[str, Tensor], weight: float = 1.0, store: object = None) -> None:
        self.outputs, self.weight = outputs, weight
        if store is not None:  # the teacher of a cohort has no such attribute
            self.store = store
        self.model = nn.Identity()
        self.calls: list[tuple[Any, ...]] = []

    def __call__(self, *arguments: Any) -> dict[str, Tensor]:
        self.calls.append(arguments)
        return self.outputs


class Recorder(nn.Module):
    """Stands for a term: its value is the sum of the student's tensor, and it remembers what it was called with."""

    def __init__(self, name: str = "KL", *, on_logits: bool = True) -> None:
        super().__init__()
        self.info, self.on_logits = LOSSES[name], on_logits
        self.loss_type, self.params = name, {"tau": 2.0}
        self.calls: list[tuple[Any, ...]] = []

    def forward(self, *arguments: Any) -> Tensor:
        self.calls.append(arguments)
        student: Tensor = arguments[0]
        return student.sum()


def images(number: int = 2) -> Tensor:
    return torch.randn(number, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))


def samples_of(label_nhw: Tensor, **metainfo: list[Any]) -> list[SegDataSample]:
    made = []
    for index, label in enumerate(label_nhw):
        more = {key: values[index] for key, values in metainfo.items() if values[index] is not None}
        made.append(SegDataSample(gt_sem_seg=PixelData(data=label[None]), metainfo=more))
    return made


def blank_samples(number: int = 2) -> list[SegDataSample]:
    return samples_of(torch.zeros(number, HEIGHT, WIDTH, dtype=torch.long))


def route(student: str = "decode_head", names: tuple[str, ...] = ("decode_head",), **changes: Any) -> Route:
    fields: dict[str, Any] = dict(teacher=0, weight=1.0, pair=None, schedule=ScheduleSpec())
    return Route((student,), names, **{**fields, **changes})


# ---------------------------------------------------------------------------------------------------------
# A student alone


def test_without_teachers_it_is_the_students_own_training() -> None:
    student = Student()
    distiller, samples = Distiller(student), blank_samples()
    losses = distiller.loss(images(), samples)
    assert losses == TASK
    assert all(given is sample for given, sample in zip(student.samples, samples, strict=True))
    assert distiller.effective_values() == {} and distiller.iteration is None and distiller.notes == []
    assert distiller.trust_checkpoint is False and distiller.data_preprocessor is student.data_preprocessor


def test_what_is_no_loss_is_passed_to_the_student() -> None:
    student = Student()
    inputs, samples = images(), blank_samples()
    distiller = Distiller(student)
    assert distiller(inputs) == "the student's tensor" and distiller(inputs, samples, mode="predict")
    assert student.calls == [(inputs, None, "tensor"), (inputs, samples, "predict")]
    assert distiller(inputs, samples, mode="loss") == TASK


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0, 2.0])
def test_the_weight_of_the_task_is_on_each_of_its_losses(weight: float) -> None:
    """Also on a list of losses, of a head of several stages; what is not called a loss stays as it is."""
    given = {**TASK, "aux.loss_dice": [torch.tensor(4.0), torch.tensor(8.0)]}
    losses = Distiller(Student(given), task_weight=weight).loss(images(), blank_samples())
    assert losses == {
        "decode.loss_ce": torch.tensor(2.0 * weight),
        "decode.acc_seg": torch.tensor(50.0),
        "aux.loss_dice": [torch.tensor(4.0 * weight), torch.tensor(8.0 * weight)],
    }


def test_the_weights_to_start_from_replace_those_that_are_drawn() -> None:
    """Those that a checkpoint lacks stay as they were drawn."""
    distiller = Distiller(Student())
    drawn = distiller.student.patches.weight.detach().clone()
    distiller.init_weights()
    distiller.start = MatchingWeights({"decode_head.bias": torch.tensor([3.0, 4.0])}, "")
    distiller.init_weights()
    assert distiller.student.decode_head.bias.tolist() == [3.0, 4.0]
    assert torch.equal(distiller.student.patches.weight, drawn)


@pytest.mark.parametrize("trust", [False, True])
def test_files_are_trusted_only_if_that_is_said(trust: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    trusted: list[Any] = []
    monkeypatch.setattr(distiller_module, "safe_loading", lambda *, trust: trusted.append(trust) or torch.no_grad())
    Distiller(Student(), trust_checkpoint=trust).init_weights()
    assert trusted == [trust]


# ---------------------------------------------------------------------------------------------------------
# What the teachers and the losses are given


@pytest.mark.parametrize("with_store", [False, True])
def test_a_teacher_with_a_store_is_told_the_views(with_store: bool) -> None:
    """All teachers of the run are, if one of them has a store; an image without a view has None."""
    store = object() if with_store else None
    teachers = [FixedTeacher({}), FixedTeacher({}, store=store)]
    label_nhw = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.long)
    inputs = images()
    Distiller(Student(), teachers).loss(inputs, samples_of(label_nhw, **{VIEW: ["a view", None]}))
    views = (["a view", None],) if with_store else ()
    assert [teacher.calls for teacher in teachers] == [[(inputs, *views)]] * 2


def test_tokens_become_maps_by_the_height_and_the_width_of_the_images() -> None:
    """A grid of 2 x 3 in an image of 32 x 48."""
    student = Student()
    term, target = Recorder(on_logits=False), torch.zeros(2, 4, 2, 3)
    routes = {"hidden": route("tokens", ("layer",), pair=(0, 0), weight=3.0)}
    distiller = Distiller(student, [FixedTeacher({"layer": target})], {"hidden": term}, routes)
    distiller.factors["hidden"] = 0.5  # its schedule's
    inputs = images()
    with distiller.capture:
        losses = distiller.loss(inputs, blank_samples())
    ((compared, teacher, label_nhw, seen_nhw),) = term.calls
    torch.testing.assert_close(compared, student.patches(inputs))
    assert teacher is target and label_nhw.shape == (2, HEIGHT, WIDTH) and seen_nhw is None
    assert losses["raw/hidden"] == compared.sum() and losses["distill.loss_hidden"] == 1.5 * compared.sum()
    assert not losses["raw/hidden"].requires_grad and losses["distill.loss_hidden"].requires_grad


@pytest.mark.parametrize(
    ("teacher", "names", "masked_by", "seen"),
    [
        (None, ("decode_head", "head"), (), None),
        (None, ("decode_head", "head"), (0,), [False, True, True]),
        (None, ("decode_head", "head"), (1,), [True, False, True]),
        (None, ("decode_head", "head"), (0, 1), [False, False, True]),
        (1, ("head",), (1,), [True, False, True]),
        (0, ("decode_head",), (0,), [False, True, True]),
    ],
)
def test_each_teacher_masks_by_its_own_head(
    teacher: int | None, names: tuple[str, ...], masked_by: tuple[int, ...], seen: list[bool] | None
) -> None:
    """Log-probabilities of which e^-2 is left: there the teacher predicts a class that the student lacks."""
    known, lacking = 0.0, -2.0
    first = torch.full((1, 2, 1, 3), -30.0)
    second = first.clone()
    first[0, 0, 0] = torch.tensor([lacking, known, known])
    second[0, 0, 0] = torch.tensor([known, lacking, known])
    teachers = [FixedTeacher({}, weight=1.0), FixedTeacher({}, weight=3.0)]
    distiller = Distiller(Student(), teachers)
    outputs = [{"decode_head": first}, {"head": second}]
    labels = BatchLabels([], torch.tensor([[[0, 1, 1]]]), None, 1)
    student = torch.zeros(1, 2, 1, 3)
    compared = distiller.compared_tensors(
        route("x", names, teacher=teacher, masked_by=masked_by), student, outputs, labels
    )
    expected = (first + 3 * second) / 4 if teacher is None else (first, second)[teacher]
    assert compared[0] is student
    torch.testing.assert_close(compared[1], expected)
    if seen is None:
        assert compared[2] is labels
        return
    assert compared[2].seen_nhw is not None and compared[2].seen_nhw.flatten().tolist() == seen
    assert compared[2].label_nhw.flatten().tolist() == [
        label if kept else 255 for label, kept in zip((0, 1, 1), seen, strict=True)
    ]


def test_a_loss_over_several_layers_gets_the_teachers_in_the_same_order() -> None:
    outputs = [{}, {"a": torch.zeros(1, 2, 1, 1), "b": torch.ones(1, 3, 1, 1)}]
    labels = BatchLabels([], torch.zeros(1, 1, 1, dtype=torch.long), None, 1)
    several = Route(("x", "y"), ("b", "a"), 1, 1.0, ((0, 1), (1, 0)), ScheduleSpec())
    _, teacher, same = Distiller(Student()).compared_tensors(several, [], outputs, labels)
    assert teacher[0] is outputs[1]["b"] and teacher[1] is outputs[1]["a"] and same is labels


def test_weights_that_are_shares_are_measured_when_they_are_due() -> None:
    """The task's gradient is 8 in each logit and the losses' is 1, so a share of 0.5 is a weight of 4."""

    class Graded(Student):
        slope = 8.0

        def loss(self, inputs: Tensor, samples: Any) -> dict[str, Any]:
            return {"decode.loss_ce": self.slope * self.decode_head.forward(inputs).sum()}

    student = Graded()
    shares = {name: ShareSpec(value=value, batches=1) for name, value in {"a": 0.5, "b": 0.25, "off": 0.5}.items()}
    shares["b"] = ShareSpec(value=0.25, batches=1, every=2)
    routes = {name: route(weight=None, share=share) for name, share in shares.items()}
    routes["plain"] = route(weight=3.0)
    teacher = FixedTeacher({"decode_head": torch.zeros(1, 2, HEIGHT, WIDTH)})
    distiller = Distiller(student, [teacher], {name: Recorder() for name in routes}, routes)
    distiller.factors["off"] = 0.0

    def weights(iteration: int | None) -> dict[str, float]:
        distiller.iteration = iteration
        with distiller.capture:
            losses = distiller.loss(images(1), blank_samples(1))
        assert "weight/plain" not in losses
        for name in routes:
            weight = 3.0 if name == "plain" else losses[f"weight/{name}"]
            torch.testing.assert_close(
                losses[f"distill.loss_{name}"], weight * distiller.factors[name] * losses[f"raw/{name}"],
                check_dtype=False,
            )  # fmt: skip
        return {name: float(losses[f"weight/{name}"]) for name in shares}

    assert weights(None) == pytest.approx(
        {"a": 4.0, "b": 2.0, "off": 4.0}
    )  # they are measured for this step, and not kept
    assert [measured.weight for measured in distiller.measured.values()] == [0.0, 0.0, 0.0]
    assert weights(0) == pytest.approx({"a": 4.0, "b": 2.0, "off": 0.0})
    student.slope = 16.0
    assert weights(1) == pytest.approx({"a": 4.0, "b": 2.0, "off": 0.0})
    distiller.factors["off"] = 1.0
    assert weights(2) == pytest.approx({"a": 4.0, "b": 4.0, "off": 8.0})  # a is measured once, b in every second step
    assert weights(None) == pytest.approx({"a": 4.0, "b": 4.0, "off": 8.0})
    assert distiller.notes == [
        "distill.losses.a: weight 4, 0.5 of the task's gradient, measured in iterations 1 to 1",
        "distill.losses.b: weight 2, 0.25 of the task's gradient, measured in iterations 1 to 1",
        "distill.losses.off: weight 8, 0.5 of the task's gradient, measured in iterations 3 to 3",
    ]


# ---------------------------------------------------------------------------------------------------------
# Images without a mask

UNLABELED = UnlabeledSpec(img_dir="x", per_batch=1, weight=0.5)


def without_mask(term: Recorder, unlabeled: UnlabeledSpec = UNLABELED) -> tuple[Distiller, Tensor, list[SegDataSample]]:
    """A student under one loss; of the two images the second has no mask, and its right half is padding."""
    distiller = Distiller(
        Student(), [FixedTeacher({"decode_head": torch.zeros(2, 2, HEIGHT, WIDTH)})], {"loss": term},
        {"loss": route()}, unlabeled=unlabeled,
    )  # fmt: skip
    label_nhw = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.long)
    label_nhw[0, 0], label_nhw[1], label_nhw[1, :, WIDTH // 2 :] = 255, NO_LABEL, 255
    distiller.student.decode_head.loss_by_feat = lambda *_: {}
    distiller.student.loss = lambda inputs, samples: (  # type: ignore[assignment]
        distiller.student.decode_head.forward(inputs), distiller.student.decode_head.loss_by_feat(), dict(TASK)
    )[-1]  # fmt: skip
    return distiller, images(), samples_of(label_nhw, **{MARK: [None, True]})


def test_images_without_a_mask_count_by_their_weight() -> None:
    term = Recorder()
    distiller, inputs, samples = without_mask(term)
    with distiller.capture:
        losses = distiller.loss(inputs, samples)
    masked, other = term.calls
    logits = distiller.student.decode_head(inputs)
    for call, index in ((masked, 0), (other, 1)):
        torch.testing.assert_close(call[0], logits[index : index + 1])
        assert call[1].shape == (1, 2, HEIGHT, WIDTH) and call[2].shape == call[3].shape == (1, HEIGHT, WIDTH)
    assert (masked[2][0, 0] == 255).all() and (masked[2][0, 1:] == 0).all() and (other[2] == 255).all()
    assert torch.equal(masked[3], masked[2] != 255)
    assert other[3][..., : WIDTH // 2].all() and not other[3][..., WIDTH // 2 :].any()
    torch.testing.assert_close(losses["raw/loss"], (logits[0].sum() + 0.5 * logits[1].sum()).detach())


def test_a_loss_about_labels_leaves_images_without_a_mask_out() -> None:
    term = Recorder("DKD")
    distiller, inputs, samples = without_mask(term)
    with distiller.capture:
        losses = distiller.loss(inputs, samples)
    assert len(term.calls) == 1
    torch.testing.assert_close(losses["raw/loss"], distiller.student.decode_head(inputs)[0].sum().detach())


@pytest.mark.parametrize("on_logits", [False, True])
def test_only_a_loss_on_logits_asks_how_sure_the_teacher_is(on_logits: bool) -> None:
    term = Recorder(on_logits=on_logits)
    distiller, inputs, samples = without_mask(term, UNLABELED.model_copy(update={"min_confidence": 0.9}))
    outputs = distiller.teachers[0].outputs["decode_head"]
    outputs[0, 0] = 9.0  # the image with a mask, where confidence does not count
    outputs[1, 0, 4:] = 9.0
    with distiller.capture:
        distiller.loss(inputs, samples)
    seen = term.calls[1][3][0, :, : WIDTH // 2]
    assert seen[4:].all() and seen[:4].any() == (not on_logits)


# ---------------------------------------------------------------------------------------------------------
# Labels of the teachers


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_predicted_classes_by_hand(channels: int, align_corners: bool) -> None:
    logits = torch.randn(2, channels, 4, 5, generator=torch.Generator().manual_seed(channels))
    resized = nn.functional.interpolate(logits, (9, 14), mode="bilinear", align_corners=align_corners)
    expected = (resized[:, 0] > 0).long() if channels == 1 else resized.argmax(dim=1)
    actual = predicted_classes(logits, torch.zeros(2, 9, 14, dtype=torch.uint8), align_corners=align_corners)
    assert actual.dtype == torch.uint8 and torch.equal(actual.long(), expected)
    assert len(actual.unique()) == max(2, channels)


@pytest.mark.parametrize("align_corners", [None, False, True])
def test_labels_of_several_teachers_are_those_of_their_weighted_mean(align_corners: bool | None) -> None:
    """Resized as the student resizes its own predictions; a student that does not say so has no aligned corners."""
    generator = torch.Generator().manual_seed(1)
    first, second = (torch.randn(2, 2, 4, 6, generator=generator) for _ in range(2))
    student = Student()
    if align_corners is not None:
        student.align_corners = align_corners
    teachers = [FixedTeacher({"decode_head": first}, 1.0), FixedTeacher({"head": second, "decode_head": first}, 3.0)]
    distiller = Distiller(student, teachers, labels_by=["decode_head", "head"])
    label_nhw = torch.randint(0, 2, (2, HEIGHT, WIDTH), generator=generator)
    label_nhw[:, :9] = 255
    distiller.loss(images(), samples_of(label_nhw))
    mean = nn.functional.interpolate(
        (first + 3 * second) / 4, (HEIGHT, WIDTH), mode="bilinear", align_corners=bool(align_corners)
    )
    expected = torch.where(label_nhw == 255, 255, mean.argmax(dim=1))
    given = torch.stack([sample.gt_sem_seg.data[0] for sample in student.samples])
    assert torch.equal(given, expected) and (given != label_nhw).any()
    assert distiller.effective_values() == {"distill.labels": "teacher"}


def test_a_teachers_label_replaces_only_what_it_knows() -> None:
    """It knows classes 0 and 2, and says 2 everywhere; in the last pixel mostly a class that the student lacks."""
    log_p = torch.full((1, 3, 1, 5), -30.0)
    log_p[:, 2] = torch.tensor([0.0, 0.0, 0.0, 0.0, -2.0])
    teachers = [FixedTeacher({"decode_head": log_p}), FixedTeacher({"head": log_p})]
    student = Student(num_classes=3)
    for teacher in teachers:
        teacher.model.class_map = ClassMap([0, 2, None], 3)
    distiller = Distiller(student, teachers, labels_by=["decode_head", "head"])
    distiller.loss(images(1), samples_of(torch.tensor([[[0, 1, 2, 255, 0]]])))
    # A class that it does not know, an ignored pixel and a masked one: the first stay, the last is ignored.
    assert student.samples[0].gt_sem_seg.data.flatten().tolist() == [2, 1, 2, 255, 0]


# ---------------------------------------------------------------------------------------------------------
# What is logged and read back


def test_only_losses_are_added_up() -> None:
    given = {
        **TASK,
        "raw/loss": torch.tensor(100.0),
        "weight/loss": torch.tensor(1000.0),
        "aux.loss": torch.tensor(4.0),
    }
    total, logs = Distiller(Student()).parse_losses(given)
    assert total == 6 and dict(logs) == {**given, "loss": total}


def test_every_value_is_read_back() -> None:
    """By the keys of the config; what is given as a share is read back in test_shares.py."""
    schedule = {"warmup": 3, "decay": "linear", "stop": 7}
    routes = {"a": route(weight=2.0, teacher=None), "b": route(pair=(0, 1), weight=0.0, teacher=1)}
    routes["b"] = replace(routes["b"], schedule=ScheduleSpec(**schedule))
    unlabeled = UnlabeledSpec(img_dir="x", per_batch=1, weight=0.5, min_confidence=0.75)
    terms = {"a": Recorder(), "b": Recorder("CWD")}
    distiller = Distiller(Student(), (), terms, routes, 0.5, unlabeled=unlabeled, on_ignored=True)
    expected = {
        "distill.task_weight": 0.5,
        "distill.on_ignored": True,
        "distill.unlabeled.weight": 0.5,
        "distill.unlabeled.min_confidence": 0.75,
    }
    for name, values in {
        "a": {"type": "KL", "weight": 2.0, "pair": None, "teacher": "mean", "tau": 2.0},
        "b": {"type": "CWD", "weight": 0.0, "pair": (0, 1), "teacher": 1, "tau": 2.0},
    }.items():
        expected |= {f"distill.losses.{name}.{key}": value for key, value in values.items()}
        expected |= {f"distill.losses.{name}.schedule.{key}": value for key, value in routes[name].schedule}
    assert distiller.effective_values() == expected
    assert {key: expected[f"distill.losses.b.schedule.{key}"] for key in schedule} == schedule


# ---------------------------------------------------------------------------------------------------------
# Building


@pytest.mark.parametrize(("initialized", "gpu"), [(False, False), (True, False), (False, True), (True, True)])
def test_statistics_are_shared_between_gpus_only(
    tiny_without_teacher: Tiny, initialized: bool, gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = tiny_without_teacher.load("student", {"model.backbone.norm_cfg.type": "SyncBN"})
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: initialized)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    student = build_distiller(cfg, seed=0).student
    shared = [module for module in student.modules() if isinstance(module, nn.SyncBatchNorm)]
    assert bool(shared) == (initialized and gpu)


@pytest.mark.parametrize("named", [None, ["backbone"]])
def test_layers_are_checkpointed_as_the_config_says(
    tiny_without_teacher: Tiny, named: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[nn.Module, Any]] = []
    monkeypatch.setattr(distiller_module, "checkpoint_activations", lambda model, names: calls.append((model, names)))
    cfg = tiny_without_teacher.load("student", {} if named is None else {"+activation_checkpointing": named})
    distiller = build_distiller(cfg, seed=0, trust_checkpoint=True)
    assert calls == [(distiller.student, named or [])] and distiller.trust_checkpoint is True


@pytest.mark.parametrize("trust", [False, True])
def test_a_teacher_of_one_run_is_loaded(trust: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        distiller_module, "load_teacher_model", lambda spec, *, trust_checkpoint: (spec, trust_checkpoint)
    )
    assert OwnTeachers().load("a spec", trust) == ("a spec", trust)  # type: ignore[arg-type,comparison-overlap]


class Source:
    """Provides given models, one for each teacher, and remembers what was asked for."""

    def __init__(self, *models: nn.Module) -> None:
        self.models = models
        self.loaded: list[tuple[Any, bool]] = []
        self.made: list[tuple[Any, ...]] = []

    def load(self, spec: Any, trust_checkpoint: bool) -> nn.Module:
        self.loaded.append((spec, trust_checkpoint))
        return self.models[len(self.loaded) - 1]

    def make_teacher(self, model: nn.Module, spec: Any, names: list[str], student_preprocessor: nn.Module) -> Teacher:
        self.made.append((model, spec, names, student_preprocessor))
        return OwnTeachers().make_teacher(model, spec, names, student_preprocessor)


@pytest.mark.parametrize("trust", [False, True])
def test_a_source_is_asked_for_each_teacher(tiny: Tiny, trust: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    trusted: list[bool] = []
    build = distiller_module.build_segmentor

    def recording(cfg: Any, *, trust_checkpoint: bool) -> nn.Module:
        trusted.append(trust_checkpoint)
        return build(cfg, trust_checkpoint=trust_checkpoint)

    monkeypatch.setattr(distiller_module, "build_segmentor", recording)
    own = {"+distill.teachers.0.features": ["backbone.layer3", "backbone.layer2"]}
    changes = {**own, "+distill.teachers.0.weight": 3.0, "+distill.teachers.0.forward": {"channels_last": True}}
    cfg = tiny.load("distill", {**changes, "distill.losses": {"hidden": {"type": "CWD", "pair": (1, 0)}}})
    model = build(tiny.load("teacher").model)
    source = Source(model)
    more = {"trust_checkpoint": True} if trust else {}
    distiller = build_distiller(cfg, seed=0, source=source, **more)
    ((spec, loaded_trust),) = source.loaded
    assert trusted == [trust] and loaded_trust is trust and distiller.trust_checkpoint is trust
    assert spec.weight == 3.0 and spec.model == cfg.distill.teachers[0].model
    assert source.made == [(model, spec, ["backbone.layer3"], distiller.student.data_preprocessor)]
    (teacher,) = distiller.teachers
    assert teacher.model is model and teacher.weight == 3.0
    assert teacher.forward == spec.forward and teacher.listed == ("backbone.layer3", "backbone.layer2")


def test_an_average_of_the_student_has_its_weight(tiny_without_teacher: Tiny) -> None:
    changes = {"distill.teachers": [dict(ema_decay=0.75, weight=3.0)], "distill.features.teacher": []}
    losses = {"distill.losses": {"logits": {"type": "KL", "weight": 1.0}}}
    distiller = build_distiller(tiny_without_teacher.load("distill", {**changes, **losses}), seed=0)
    (teacher,) = distiller.teachers
    assert isinstance(teacher, EmaTeacher) and teacher.weight == 3.0 and teacher.average.momentum == 0.25
    assert teacher.capture.names == ("decode_head",) and distiller.labels_by == ()


def test_labels_are_made_of_the_logits_that_predict_uses(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of evaluation, in which a teacher runs; of several only the first, and only where labels are asked for."""
    trainings: list[bool] = []

    def names(model: nn.Module, *, training: bool) -> list[str]:
        trainings.append(training)
        return ["decode_head", "auxiliary_head"]

    monkeypatch.setattr(distiller_module, "logit_names", names)
    source = Source(distiller_module.build_segmentor(tiny.load("teacher").model))
    cfg = tiny.load("distill", {"distill.losses": {}, "distill.labels": "teacher"})
    distiller = build_distiller(cfg, seed=0, source=source)
    assert distiller.labels_by == ("decode_head",) and source.made[0][2] == ["decode_head"]
    assert trainings and all(training is False for training in trainings)


def test_a_teacher_of_other_images_is_named(tiny: Tiny) -> None:
    model = distiller_module.build_segmentor(tiny.load("teacher", {"+model.backbone.in_channels": 5}).model)
    with pytest.raises(UserError) as caught:
        build_distiller(tiny.load("distill"), seed=0, source=Source(model))
    assert caught.value.problems == (
        "distill.teachers[0]: its model takes images of 5 channels, the student's of 3; both are given the same "
        "images: train a teacher on them",
    )


def test_labels_need_logits(tiny: Tiny) -> None:
    model = distiller_module.build_segmentor(tiny.load("teacher").model)
    model.decode_head.gives_logits = False
    cfg = tiny.load("distill", {"distill.losses": {}, "distill.labels": "teacher"})
    with pytest.raises(UserError) as caught:
        build_distiller(cfg, seed=0, source=Source(model))
    assert caught.value.problems == (
        "distill.labels: teachers[0] gives features alone, and no class of a pixel; set labels='data'",
    )


def test_the_names_in_every_list_are_looked_up_in_their_own_model(tiny: Tiny) -> None:
    """The shared list in the teachers that have none of their own, and a teacher's own list in that teacher."""
    entry = dict(config=str(tiny.folder / "teacher.py"), checkpoint=str(tiny.folder / "teacher" / "best.pth"))
    changes = {
        "distill.teachers": [entry, {**entry, "features": ["backbone.layer1", "backbone.wrong"]}],
        "distill.features.teacher": ["backbone.layer3", "backbone.layer4", "decode_head.lacking"],
        "distill.losses": {"logits": {"type": "KL"}},
    }
    model = distiller_module.build_segmentor(tiny.load("student").model)
    with pytest.raises(UserError) as caught:
        build_distiller(tiny.load("distill", changes), seed=0, source=Source(model, model))
    first, second = caught.value.problems
    assert first.startswith("distill.features.teacher[2]: feature 'decode_head.lacking': ")
    assert second.startswith("distill.teachers[1].features[1]: feature 'backbone.wrong': ")


def test_every_teacher_of_other_classes_is_named(tiny: Tiny) -> None:
    """The second and the third of three, by their own numbers."""
    entry = dict(config=str(tiny.folder / "teacher.py"), checkpoint=str(tiny.folder / "teacher" / "best.pth"))
    changes = {"distill.teachers": [entry] * 3, "distill.losses": {}, "distill.labels": "teacher"}
    no_class_weight = {"model.decode_head.loss_decode.class_weight": None}
    models = [
        distiller_module.build_segmentor(
            tiny.load("student", {**no_class_weight, "model.decode_head.num_classes": classes}).model
        )
        for classes in (2, 5, 7)
    ]
    with pytest.raises(UserError) as caught:
        build_distiller(tiny.load("distill", changes), seed=0, source=Source(*models))
    assert caught.value.problems == tuple(
        f"distill.labels: teachers[{index}] tells {classes} classes apart, the student 2; labels need the student's "
        "classes: map the teacher's to them by its `classes`"
        for index, classes in ((1, 5), (2, 7))
    )
