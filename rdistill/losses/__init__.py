"""The distillation losses: their names, formulas, defaults and limits, in one dict.

Importing this module does not import torch, so that the command line can check a config file at once; the
functions (:mod:`.functional`) and the modules (:mod:`.modules`) are loaded when first asked for.

To add a loss: a function in ``functional.py``, an entry in :data:`LOSSES`, a test and a row in
docs/losses.md.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rdistill.core.errors import did_you_mean

if TYPE_CHECKING:
    from .modules import Adapter, Term

__all__ = ["LOSSES", "Adapter", "LossInfo", "Term", "check_params"]

COMPARED_AT = ("label", "logits")


@dataclass(frozen=True)
class LossInfo:
    """What there is to know about one loss without computing it."""

    function: str
    """Name of the pure function in ``rdistill.losses.functional``; :meth:`load` returns it."""
    paper: str
    formula: str
    """One line of plain text; s and t are the student's and the teacher's N x C x H x W, p a softmax."""
    on: tuple[str, ...]
    """What it can compare: ``logits`` (ignored pixels masked), ``features``, or both."""
    weight: float
    """Default weight; see :meth:`default_weight`."""
    use_when: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Parameters and their defaults, equal to the code's keyword defaults (a test holds them together)."""
    weight_on_features: float | None = None
    """Default weight on features where it is not that on logits."""
    at: str = "logits"
    """Default of the parameter ``at``, which exists on logits only: compare at the ``label``'s resolution
    (both logits upsampled) or at the teacher's ``logits`` resolution (the label resized)."""

    def load(self) -> Callable[..., Any]:
        """The pure function itself (imports torch)."""
        functional = importlib.import_module("rdistill.losses.functional")
        function: Callable[..., Any] = getattr(functional, self.function)
        return function

    def default_weight(self, on: str) -> float:
        """The default weight on ``logits`` or ``features``."""
        if on == "features" and self.weight_on_features is not None:
            return self.weight_on_features
        return self.weight

    def default_params(self, on: str) -> dict[str, Any]:
        """Every parameter a term on ``logits`` or ``features`` takes, with its default."""
        return {**self.defaults, **({"at": self.at} if on == "logits" else {})}


LOSSES: dict[str, LossInfo] = {
    "KL": LossInfo(
        function="kl",
        paper="Hinton et al., 2015, arXiv 1503.02531; Liu et al., CVPR 2019, arXiv 1903.04197",
        formula="tau^2 * mean over valid pixels of sum_c p_t (log p_t - log p_s); per_class: also / C",
        on=("logits", "features"),
        weight=3.0,
        defaults={"tau": 1.0, "per_class": False},
        at="label",
        use_when="First choice on logits; per_class=True and weight 3 is PaddleSeg's optic-disc recipe.",
    ),
    "CWD": LossInfo(
        function="cwd",
        paper="Shu et al., ICCV 2021, arXiv 2011.13256",
        formula="tau^2 / (N C) * sum over n, c of KL(softmax_HW(t / tau) || softmax_HW(s / tau))",
        on=("logits", "features"),
        weight=3.0,
        weight_on_features=50.0,
        defaults={"tau": 4.0},
        use_when="Strong default for dense prediction, on logits (weight 3) and on features (weight 50).",
    ),
    "SKD": LossInfo(
        function="skd_pairwise",
        paper="Liu et al., CVPR 2019, arXiv 1903.04197",
        formula="mean over n and cell pairs of (A_t - A_s)^2, A = cosines between max-pooled grid cells",
        on=("features",),
        weight=0.5,
        defaults={"grid": 16},
        use_when="Features of different widths without an adapter; beside KL.",
    ),
    "IFVD": LossInfo(
        function="ifvd",
        paper="Wang et al., ECCV 2020",
        formula="mean over labelled pixels of (cos(s, class centre of s) - cos(t, class centre of t))^2",
        on=("features",),
        weight=20.0,
        use_when="Features close to the classifier, several classes in a crop; authors' weights 20 to 200.",
    ),
    "CIRKD": LossInfo(
        function="cirkd_pairs",
        paper="Yang et al., CVPR 2022, arXiv 2204.06986 (mini-batch part)",
        formula="mean over pictures i, j and rows of KL(softmax(t_i t_j / tau) || softmax(s_i s_j / tau))",
        on=("features",),
        weight=1.0,
        defaults={"tau": 0.1, "grid": 16},
        use_when="Relations between the pictures of a batch; needs at least 2 pictures a worker.",
    ),
    "CIRKDMemory": LossInfo(
        function="cirkd_memory",
        paper="Yang et al., CVPR 2022, arXiv 2204.06986 (memory part)",
        formula="kd_tau^2 * mean over anchors of KL(q_t || q_s), q = softmax(x keys / (tau kd_tau)), "
        "for the keys of pixels + of regions",
        on=("features",),
        weight=0.1,
        defaults={
            "tau": 0.1,
            "kd_tau": 1.0,
            "grid": 32,
            "pixel_queue_size": 20000,
            "region_queue_size": 2000,
            "pixels_per_class": 16,
            "pixel_contrast_size": 4096,
            "region_contrast_size": 1024,
        },
        use_when="Beside CIRKD when the batch is small; costs memory: classes x queue x channels floats.",
    ),
    "DIST": LossInfo(
        function="dist",
        paper="Huang et al., NeurIPS 2022, arXiv 2205.10536",
        formula="tau^2 * (beta * mean over pixels of 1 - Pearson over c "
        "+ gamma * mean over c of 1 - Pearson over pixels)",
        on=("logits", "features"),
        weight=1.0,
        defaults={"tau": 1.0, "beta": 1.0, "gamma": 1.0},
        use_when="Many classes and a much stronger teacher; weak with two classes.",
    ),
    "AT": LossInfo(
        function="at",
        paper="Zagoruyko and Komodakis, ICLR 2017, arXiv 1612.03928",
        formula="mean over n of sum_HW (a_s - a_t)^2, a = mean_c f^2 normalised to length 1 over H W",
        on=("features",),
        weight=1.2,
        use_when="Any widths, cheap, no adapter: says where to look, not what to see.",
    ),
    "FitNet": LossInfo(
        function="fitnet",
        paper="Romero et al., ICLR 2015, arXiv 1412.6550",
        formula="mean over n, c, h, w of (conv1x1(s) - t)^2",
        on=("features",),
        weight=10.0,
        use_when="The plainest feature hint; a baseline for the others.",
    ),
    "MGD": LossInfo(
        function="mgd",
        paper="Yang et al., ECCV 2022, arXiv 2205.01529",
        formula="mean over n, h, w of sum_c (g - t)^2, g = conv3(relu(conv3(conv1x1(s) masked)))",
        on=("features",),
        weight=0.08,
        defaults={"mask_ratio": 0.75},
        use_when="Backbone features when imitating them one by one (FitNet) is too strict.",
    ),
    "PKD": LossInfo(
        function="pkd",
        paper="Cao et al., NeurIPS 2022, arXiv 2207.02039",
        formula="1/2 * mean of (z_s - z_t)^2, z = f standardised per channel over N, H, W",
        on=("features",),
        weight=1.0,
        use_when="Teacher and student of different families, whose features differ in scale.",
    ),
    "DSD": LossInfo(
        function="dsd",
        paper="Feng et al., TIP 2021, arXiv 2107.08591",
        formula="pixel_weight * mean over layer pairs, n of sum_HW (r_s - r_t)^2 "
        "+ category_weight * mean of (G_s - G_t)^2",
        on=("logits", "features"),
        weight=0.12,
        defaults={"tau": 4.0, "pixel_weight": 1.0, "category_weight": 1.0},
        use_when="A list of layers of each model, the last its logits; one pair alone is only part of it.",
    ),
    "DKD": LossInfo(
        function="dkd",
        paper="Zhao et al., CVPR 2022, arXiv 2203.08679",
        formula="tau^2 * mean over valid pixels of alpha * KL(target or not) + beta * KL(among the others)",
        on=("logits",),
        weight=1.0,
        defaults={"tau": 4.0, "alpha": 1.0, "beta": 8.0},
        at="label",
        use_when="Many classes and a confident teacher; with two classes only the alpha part exists.",
    ),
    "L1": LossInfo(
        function="l1",
        paper="mean absolute error",
        formula="mean over valid n, c, h, w of |s - t|",
        on=("logits", "features"),
        weight=1.0,
        use_when="Feature imitation with outliers; a baseline.",
    ),
    "L2": LossInfo(
        function="l2",
        paper="Ba and Caruana, NeurIPS 2014, arXiv 1312.6184 (on logits)",
        formula="mean over valid n, c, h, w of (s - t)^2",
        on=("logits", "features"),
        weight=1.0,
        use_when="Logits without a temperature; PaddleSeg's feature loss.",
    ),
    "Cosine": LossInfo(
        function="cosine",
        paper="cosine distance per position",
        formula="mean over valid n, h, w of 1 - cos(s, t), cosine over channels",
        on=("logits", "features"),
        weight=1.0,
        use_when="Direction of the feature matters, its length does not.",
    ),
}


def check_params(type: str, params: Mapping[str, Any], on: str) -> list[str]:
    """What is wrong with a loss's parameters, one line a problem; an empty list when nothing is.

    Args:
        type: a name in :data:`LOSSES`.
        params: the loss's own parameters, without ``type``, ``on``, ``weight`` and the like.
        on: ``logits`` or ``features``.
    """
    info = LOSSES.get(type)
    if info is None:
        return [f"type must be one of {', '.join(LOSSES)}, got {type!r}{did_you_mean(type, LOSSES)}"]
    if on not in info.on:
        return [f"on must be {' or '.join(map(repr, info.on))} for {type}, got {on!r}"]
    defaults = info.default_params(on)
    problems = []
    for name, value in params.items():
        if name not in defaults:
            known = f"{type} on {on} takes {', '.join(defaults) or 'no parameters'}"
            problems.append(f"{name} is not a parameter: {known}{did_you_mean(name, defaults)}")
        elif problem := _check_value(name, value, defaults[name]):
            problems.append(problem)
    return problems


def _check_value(name: str, value: Any, default: Any) -> str:
    """One line, or an empty string when ``value`` will do where ``default`` does."""
    if name == "at":
        return "" if value in COMPARED_AT else f"at must be 'label' or 'logits', got {value!r}"
    if isinstance(default, bool):
        return "" if isinstance(value, bool) else f"{name} must be true or false, got {value!r}"
    if isinstance(default, int):
        if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
            return ""
        return f"{name} must be a whole number >= 1, got {value!r}"
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return f"{name} must be a finite number, got {value!r}"
    if name in ("tau", "kd_tau"):
        return "" if value > 0 else f"{name} is a temperature and must be > 0, got {value!r}"
    if name == "mask_ratio":
        return "" if 0 <= value < 1 else f"{name} is a share, must be >= 0 and < 1, got {value!r}"
    return "" if value >= 0 else f"{name} must be >= 0, got {value!r}"


def __getattr__(name: str) -> Any:
    """``Term`` and ``Adapter`` at their first use, since they need torch."""
    if name in ("Adapter", "Term"):
        return getattr(importlib.import_module("rdistill.losses.modules"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
