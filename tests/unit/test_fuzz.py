"""Whatever a sweep file, an override or a section of a config holds: it loads, or a few plain lines say why not.

Fifty examples of each kind with the quick tests, two thousand in `make test-all`; the same ones each time.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import optuna
import pytest
import yaml
from conftest import Tiny
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from mmengine.config import Config, ConfigDict

from rdistill.cli import MAX_ERRORS, _print_errors
from rdistill.config.distill_spec import distill_spec
from rdistill.config.load import LoadedConfig, load_config, with_overrides
from rdistill.config.overrides import parse_assignments
from rdistill.config.read import read_config_file
from rdistill.config.shortcuts import Shortcuts
from rdistill.core.errors import MAX_LINE_CHARS, UserError
from rdistill.sweeps.study.space import build_sampler, check_space, distributions
from rdistill.sweeps.study.spec import SweepSpec, read_sweep

SECTIONS = (
    "train_dataloader",
    "optim_wrapper",
    "param_scheduler",
    "train_cfg",
    "metainfo",
    "model",
    "default_hooks",
)
SHORTCUTS = (
    Shortcuts(),
    Shortcuts(size="40x48"),
    Shortcuts(iters=7),
    Shortcuts(data_root="/a", label_map="255=1", teacher_checkpoint="a.pth"),
    Shortcuts(batch_size=3, val_interval=2, num_data_workers=1),
)
LONGEST_LINE = MAX_LINE_CHARS + 20  # includes what stands before it
EXAMPLES = [pytest.param(50, id="some"), pytest.param(2000, id="many", marks=pytest.mark.slow)]
ODD_TEXTS = [
    "",
    " ",
    "off",
    "auto",
    "nan",
    "1e-3",
    "a\nb",
    "\x00",
    "\x1b[31m",
    "\udc80",
    "²",
    "ünï",
    "x" * 3000,
    "a.b",
    "[",
    "{{$HOME:x}}",
    "<<",
    "*x",
    "&x",
    "!!set",
    "@x",
    "-1",
    "1:30",
    "2026-01-01",
    "'",
    '"',
    "%",
    "\t",
    "---",
]
TEXTS = st.one_of(st.sampled_from(ODD_TEXTS), st.text(max_size=12))
NUMBERS = st.one_of(
    st.integers(-3, 5),
    st.sampled_from([2**31, 2**32, 2**53, 2**64, -(2**63), 10**400]),
    st.sampled_from([0.0, -0.0, 0.5, 1e-320, 1e308, -1e308, float("nan"), float("inf"), -float("inf")]),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
KEYS = st.one_of(TEXTS, st.integers(-2, 2), st.booleans(), st.none())
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=8,
)

SWEEP: dict[str, Any] = {
    "config": "a.py",
    "set": {"distill.task_weight": 0.5, "+note": "x"},
    "space": {
        "distill.losses.logits.weight": {"type": "loguniform", "low": 1.0, "high": 10.0},
        "distill.task_weight": {"type": "uniform", "low": 0.25, "high": 1.0},
        "distill.losses.hidden.pair": {"type": "pairs", "pairs": [[0, 0], [1, 1]]},
        "train_dataloader.batch_size": {"type": "int", "low": 2, "high": 4},
        "optim_wrapper.optimizer.lr": {"type": "choice", "values": [0.01, 0.1]},
    },
    "search": {"type": "random", "num_trials": 3, "seed": 0},
    "scheduler": {"type": "asha", "grace_period": 2, "reduction_factor": 2},
    "trial": {"workers": 1, "cpus_per_worker": 1, "gpus_per_worker": 0, "max_concurrent": 2},
    "cohort": {"size": "auto"},
    "baseline": {"search": {"optim_wrapper.optimizer.lr": {"type": "choice", "values": [0.01]}}, "num_trials": 1},
    "confirm": {"top": 1, "seeds": [1, 2]},
    "objectives": ["mIoU", "params"],
    "seed": 0,
    "tracking": {"wandb": {"mode": "offline", "tags": ["a"]}, "images": 2},
}


def accepted(read: Callable[[], Any]) -> Any:
    """What is read; None where it is refused, in lines that fit a screen. Any other exception is a fault of ours."""
    try:
        return read()
    except UserError as error:
        with contextlib.redirect_stderr(io.StringIO()) as printed:
            _print_errors(*error.problems)
        lines = printed.getvalue().splitlines()
        assert 1 <= len(lines) <= MAX_ERRORS
        assert all(line.startswith("error: ") and len(line) <= LONGEST_LINE for line in lines)
        assert not any(unicodedata.category(letter) in ("Cc", "Cs") for line in lines for letter in line)
        assert not any(word in printed.getvalue() for word in ("Input should be", "Traceback", "literal[", "tuple["))
        return None


def many(examples: int) -> Any:
    """Settings: as many examples, however long each takes on a busy machine, the same ones each time."""
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
    return settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=checks, database=None)


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values in a tree."""
    yield path
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for key, value in inner:
        yield from places(value, (*path, key))


@st.composite
def changed(draw: st.DrawFn, tree: dict[str, Any]) -> dict[str, Any]:
    """A tree with a few of its values replaced by others, keys misspelt, added or taken out."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        *path, last = draw(st.sampled_from(list(places(tree))[1:]))
        node: Any = tree
        for part in path:
            node = node[part]
        what = draw(st.sampled_from(["replace", "remove", "add"]))
        if what == "replace" or not isinstance(node, dict):
            node[last] = draw(VALUES)
        elif what == "remove":
            del node[last]
        else:
            node[draw(KEYS)] = draw(VALUES)
        if len(tree) < 2:
            break
    return tree


def _written(tree: Any) -> bytes:
    """YAML, also of what YAML cannot say."""
    return yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass")


YAML_PIECES = st.lists(
    st.one_of(
        st.sampled_from(
            [
                "config: a.py\n",
                "space:\n",
                "  k: ",
                "- ",
                "&x ",
                "*x",
                "<<: ",
                "? ",
                ": ",
                "{",
                "}",
                "[",
                "]",
                "!!set ",
                "!!int ",
                "|\n",
                ">\n",
                "---\n",
                "...\n",
                "%YAML 9\n",
                "\t",
                "\r",
                "#",
                "'",
                '"',
                ",",
                "\ufeff",
                "a: 1\n",
                "on",
                "0x_",
                "08",
                "1e5",
                ".inf",
                "=",
                "~",
                "\u2028",
                "@",
                "`",
            ]
        ),
        TEXTS,
    ),
    max_size=30,
).map(lambda pieces: "".join(pieces).encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("examples", EXAMPLES)
def test_sweep_files(examples: int, tmp_path: Path, tiny_without_teacher: Tiny) -> None:
    file = tmp_path / "a.yaml"
    base = without_files(tiny_without_teacher)
    distill = distill_spec(base)
    assert distill is not None
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    @many(examples)
    @hypothesis.given(st.one_of(changed(SWEEP).map(_written), YAML_PIECES, st.binary(max_size=40)))
    def read(content: bytes) -> None:
        file.write_bytes(content)
        spec = accepted(lambda: read_sweep(file))
        if (
            not isinstance(spec, SweepSpec)
            or accepted(lambda: check_space(spec, LoadedConfig.of(base), "a.yaml") or True) is None
        ):
            return
        for search, dimensions in ((spec.search, spec.space), (spec.baseline, spec.baseline.search)):
            space = distributions(dimensions, distill)
            study = optuna.create_study(sampler=build_sampler(search.type, search.seed or 0, space))
            study.ask(space)

    read()


def without_files(tiny: Tiny) -> Config:
    """A distill config, loaded without its data and checkpoints."""
    return load_config(tiny.folder / "distill.py", with_data=False)


@pytest.mark.parametrize("examples", EXAMPLES)
def test_overrides(examples: int, tiny_without_teacher: Tiny) -> None:
    base = without_files(tiny_without_teacher)
    keys = [".".join(map(str, path)) for path in places(base._cfg_dict.to_dict()) if path]

    @many(examples)
    @hypothesis.given(
        st.lists(
            st.one_of(
                st.tuples(st.sampled_from(["", "+"]), st.sampled_from(keys), VALUES).map(
                    lambda t: f"{t[0]}{t[1]}={t[2]}"
                ),
                st.tuples(st.sampled_from(keys), TEXTS, TEXTS).map(lambda t: f"{t[0]}{t[1]}={t[2]}"),
                TEXTS,
            ),
            min_size=1,
            max_size=3,
        )
    )
    def override(assignments: list[str]) -> None:
        values = accepted(lambda: parse_assignments(assignments))
        if values is not None:
            accepted(lambda: with_overrides(base, values))

    override()


@pytest.mark.parametrize("examples", EXAMPLES)
def test_the_distill_section(examples: int, tiny_without_teacher: Tiny) -> None:
    section = read_config_file(tiny_without_teacher.folder / "distill.py").distill.to_dict()
    section["losses"]["hidden"]["pair"] = [1, 1]
    section["losses"]["hidden"]["schedule"] = {"warmup": 2, "decay": "linear", "stop": 5}
    section["cache"] = {"mode": "auto", "memory": "1GiB"}
    section["teachers"][0]["forward"] = {"fuse": True}

    @many(examples)
    @hypothesis.given(st.one_of(changed(section), VALUES))
    def check(changed_section: Any) -> None:
        value = ConfigDict(changed_section) if _is_section(changed_section) else changed_section
        accepted(lambda: distill_spec(Config(dict(distill=value))))

    check()


@pytest.mark.parametrize("examples", EXAMPLES)
def test_sections_of_a_config(examples: int, tiny_without_teacher: Tiny) -> None:
    """A section as the file has it, and as ``--set`` would set it; alone and with each of the shortcuts."""
    base = without_files(tiny_without_teacher)
    whole = json.loads(json.dumps(base._cfg_dict.to_dict()))  # tuples as lists, so that their items can be changed
    sections = {
        name: whole.get(name, {"classes": ["a", "b"], "palette": [[0, 0, 0], [255, 0, 0]]}) for name in SECTIONS
    }
    trees = st.one_of(*(changed({name: section}) for name, section in sections.items()))

    @many(examples)
    @hypothesis.given(trees, st.booleans(), st.sampled_from(SHORTCUTS))
    def load(tree: dict[Any, Any], as_overrides: bool, shortcuts: Shortcuts) -> None:
        if as_overrides:
            texts = (yaml.safe_dump(value, default_flow_style=True, width=10**6) for value in tree.values())
            assignments = [f"{key}={text}" for key, text in zip(tree, texts, strict=True)]
            values = accepted(lambda: parse_assignments(assignments))
            if values is not None:
                accepted(lambda: load_config(base, values, shortcuts, with_data=False))
        elif _is_section(tree):
            cfg = copy.deepcopy(base)
            for name, section in tree.items():
                cfg[name] = section
            accepted(lambda: load_config(cfg, None, shortcuts, with_data=False))

    load()


def test_a_dataloader_without_a_data_set(tiny_without_teacher: Tiny) -> None:
    with pytest.raises(UserError) as caught:
        with_overrides(without_files(tiny_without_teacher), parse_assignments(["train_dataloader={}"]))
    assert any(problem.startswith("train_dataloader.dataset: is required") for problem in caught.value.problems)


def _is_section(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)
