"""What holds for any input: read is what was written, a queue keeps the newest, a resumed stream goes on where it was.

The same few examples each time; tests/unit/test_fuzz.py says that whatever is not accepted is refused in plain lines.
"""

from __future__ import annotations

import ast
import json
from collections import deque
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import optuna
import pytest
import torch
from conftest import Tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmengine.config import Config

from rdistill.config.load import LoadedConfig, with_overrides
from rdistill.config.overrides import lookup, parse_assignments
from rdistill.config.render import assignment, config_source
from rdistill.config.shortcuts import parse_size
from rdistill.core.errors import UserError
from rdistill.data.datasets import StreamSampler
from rdistill.losses.modules import ClassQueue
from rdistill.sweeps.study.space import build_sampler, decode, distributions
from rdistill.sweeps.study.spec import parse_sweep
from rdistill.training.lockstep import TRAINING, Lane, LaneLoader, Lockstep

few = settings(
    max_examples=25, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip

finite = st.floats(allow_nan=False, allow_infinity=False)
scalars = st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), finite, st.text(max_size=20))
plain = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.tuples(inner, inner), st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
names = st.from_regex(r"[a-z]{1,8}", fullmatch=True)


# --- overrides ------------------------------------------------------------------------------------------------------


@few
@given(value=plain)
def test_a_python_literal_is_parsed_to_itself(value: Any) -> None:
    assert parse_assignments([f" +a.b = {value!r}"]) == {"+a.b": value}


FREE = {
    "optim_wrapper.optimizer.lr": st.floats(1e-6, 10.0),
    "optim_wrapper.optimizer.momentum": st.floats(0.0, 0.99),
    "distill.losses.logits.weight": st.floats(0.0, 100.0),
    "distill.losses.hidden.tau": st.floats(0.1, 50.0),
    "model.decode_head.dropout_ratio": st.floats(0.0, 0.9),
    "train_cfg.max_iters": st.integers(1, 10**6),
}


@pytest.fixture(scope="module")
def base(tiny: Tiny) -> Config:
    return tiny.load("distill")


@few
@given(values=st.fixed_dictionaries({}, optional=FREE), order=st.randoms(use_true_random=False))
def test_an_override_sets_its_key_and_no_other(base: Config, values: dict[str, Any], order: Any) -> None:
    """In any order, and a second time without effect."""
    before = base.to_dict()
    once = with_overrides(base, values)
    for key in FREE:
        assert lookup(once._cfg_dict, key) == values.get(key, lookup(base._cfg_dict, key)), key
    shuffled = list(values.items())
    order.shuffle(shuffled)
    assert with_overrides(once, dict(shuffled)).to_dict() == once.to_dict()
    back = with_overrides(once, {key: lookup(base._cfg_dict, key) for key in values})
    assert back.to_dict() == before == base.to_dict()


# --- what is written of a config ------------------------------------------------------------------------------------


@few
@given(value=plain)
def test_an_assignment_is_read_back(value: Any) -> None:
    source = assignment("key", value)
    assert ast.literal_eval(plain_call(source.partition("= ")[2])) == value


def plain_call(source: str) -> str:
    """``dict(a=1)`` as ``{'a': 1}``, which ``ast.literal_eval`` takes."""

    class AsLiteral(ast.NodeTransformer):
        def visit_Call(self, node: ast.Call) -> ast.AST:
            self.generic_visit(node)
            assert isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args
            keys: list[ast.expr | None] = [ast.Constant(keyword.arg) for keyword in node.keywords]
            return ast.Dict(keys=keys, values=[keyword.value for keyword in node.keywords])

    return ast.unparse(ast.fix_missing_locations(AsLiteral().visit(ast.parse(source, mode="eval"))))


@few
@given(values=st.dictionaries(names.map("key_{}".format), plain, min_size=1, max_size=4))
def test_a_config_is_read_back_from_its_file(values: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "config.py"
    file.write_text(config_source(Config(values)), encoding="utf-8")
    assert Config.fromfile(str(file)).to_dict() == Config(values).to_dict()


# --- sizes ----------------------------------------------------------------------------------------------------------


@given(height=st.integers(1, 999_999), width=st.integers(1, 999_999), x=st.sampled_from("xX"))
@few
def test_a_size_is_height_then_width(height: int, width: int, x: str) -> None:
    assert parse_size(f"{height}{x}{width}", "--size") == (height, width)
    assert parse_size(str(height), "--size") == (height, height)


@given(text=st.text(max_size=12))
@few
def test_any_other_size_is_refused(text: str) -> None:
    try:
        height, width = parse_size(text, "--size")
    except UserError as error:
        assert error.problems[0].startswith("--size: must be pixels")
    else:
        digits = text.lower().split("x")
        assert (height, width) == (int(digits[0]), int(digits[-1])) and min(height, width) > 0


# --- search ---------------------------------------------------------------------------------------------------------

choice = st.lists(st.one_of(st.integers(-5, 5), finite, st.booleans(), names, st.lists(names, max_size=2)), min_size=1)
dimension = st.one_of(
    choice.map(lambda values: {"type": "choice", "values": list({json.dumps(v): v for v in values}.values())}),
    st.tuples(st.integers(-9, 0), st.integers(1, 9)).map(lambda ends: {"type": "int", "low": ends[0], "high": ends[1]}),
)


@few
@given(space=st.dictionaries(names, dimension, min_size=1, max_size=3), kind=st.sampled_from(["random", "optuna"]))
def test_what_a_searcher_suggests_is_one_of_the_values(base: Config, space: dict[str, Any], kind: str) -> None:
    """Decoded to the very value and type of the sweep file, lists and booleans included."""
    spec = parse_sweep({"config": "c.py", "space": space, "search": {"type": kind, "num_trials": 2}}, "test")
    optunas = distributions(spec.space, LoadedConfig.of(base).distill)
    for trial in _trials(kind, optunas, 2):
        for key, value in decode(trial, spec.space).items():
            asked = space[key]
            if asked["type"] == "choice":
                assert any(value == each and type(value) is type(each) for each in asked["values"])
            else:
                assert isinstance(value, int) and asked["low"] <= value <= asked["high"]


@few
@given(space=st.dictionaries(names, dimension, min_size=1, max_size=2))
def test_a_grid_visits_every_point_once(base: Config, space: dict[str, Any]) -> None:
    spec = parse_sweep({"config": "c.py", "space": space, "search": {"type": "grid"}}, "test")
    optunas = distributions(spec.space, LoadedConfig.of(base).distill)
    points = 1
    for each in space.values():
        points *= len(each["values"]) if each["type"] == "choice" else each["high"] - each["low"] + 1
    if points > 60:
        return
    visited = [json.dumps(decode(trial, spec.space), sort_keys=True) for trial in _trials("grid", optunas, points)]
    assert len(visited) == points == len(set(visited))


def _trials(kind: str, space: Any, count: int) -> list[dict[str, Any]]:
    """What Optuna suggests, one trial after another."""
    study = optuna.create_study(sampler=build_sampler(kind, 0, space))
    trials = []
    for _ in range(count):
        trial = study.ask(space)
        trials.append(trial.params)
        with suppress(RuntimeError):  # a grid stops at its last point the loop that Tune runs in place of Optuna's
            study.tell(trial, 0.0)
    return trials


# --- the queue of CIRKD's memory ------------------------------------------------------------------------------------


@few
@given(
    size=st.integers(1, 5),
    pushes=st.lists(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=4), max_size=6),
    seed=st.integers(0, 99),
)
def test_a_class_queue_keeps_the_newest_of_each_class(
    size: int, pushes: list[list[tuple[bool, bool]]], seed: int
) -> None:
    """Against two deques: what is absent, or not finite, is not written; the oldest goes first."""
    queue, newest = ClassQueue(2, size, 1), [deque[float](maxlen=size) for _ in range(2)]
    written, number = [0, 0], 0.0
    for push in pushes:
        push = push[:size]
        present = torch.tensor(push, dtype=torch.bool).T  # classes x M
        keys = torch.zeros(2, len(push), 1)
        for position in range(len(push)):
            for label in range(2):
                number += 1.0
                broken = int(number) % 7 == 0
                keys[label, position, 0] = float("nan") if broken else number
                if present[label, position] and not broken:
                    newest[label].append(number)
                    written[label] += 1
        queue.push(keys, present)
    assert queue.written.tolist() == written
    for label in range(2):
        filled = min(written[label], size)
        assert sorted(queue.keys[label, :filled, 0].tolist()) == sorted(newest[label])
    torch.manual_seed(seed)
    drawn, exists = queue.sample(8)
    by_class = drawn.reshape(2, -1).tolist()
    for label in range(2):
        assert exists.reshape(2, -1)[label].all() if newest[label] else not exists.reshape(2, -1)[label].any()
        assert not newest[label] or set(by_class[label]) <= set(newest[label])


def test_a_class_queue_refuses_more_than_it_holds() -> None:
    with pytest.raises(ValueError, match="a queue of 2 cannot take 3"):
        ClassQueue(1, 2, 1).push(torch.zeros(1, 3, 1), torch.ones(1, 3, dtype=torch.bool))


# --- where a resumed run goes on ------------------------------------------------------------------------------------


def stream(size: int, workers: int, rank: int, seed: int, **options: Any) -> StreamSampler:
    """A sampler as one of several workers makes it."""
    with patch("rdistill.data.datasets.get_dist_info", lambda: (rank, workers)):
        return StreamSampler(range(size), seed, **options)


@few
@given(
    size=st.integers(1, 9), workers=st.integers(1, 3), later_workers=st.integers(1, 3), per_worker=st.integers(1, 3),
    done=st.integers(0, 12), seed=st.integers(0, 3), shuffle=st.booleans(),
)  # fmt: skip
def test_a_resumed_stream_goes_on_where_it_was(
    size: int, workers: int, later_workers: int, per_worker: int, done: int, seed: int, shuffle: bool
) -> None:
    """Draw i is the same on any number of workers, from the start or from any step on; each is drawn by one worker."""
    count = workers * later_workers * per_worker  # draws a step, which both numbers of workers divide
    whole = list(islice(iter(stream(size, 1, 0, seed, shuffle=shuffle)), (done + 3) * count))
    assert [draw for draw, _ in whole] == list(range(len(whole)))
    for number in range(0, len(whole) - size + 1, size):
        assert sorted(index for _, index in whole[number : number + size]) == list(range(size))  # a pass has each once
    resumed = []
    for rank in range(later_workers):
        sampler_of_rank = stream(size, later_workers, rank, seed, shuffle=shuffle)
        sampler_of_rank.skip(done * count // later_workers)
        resumed += list(islice(iter(sampler_of_rank), 3 * count // later_workers))
    assert sorted(resumed) == whole[done * count :]


@few
@given(size=st.integers(1, 9), workers=st.integers(1, 3), epoch=st.integers(0, 4), skipped=st.integers(0, 9))
def test_a_stream_by_epochs_is_cut_out_of_the_endless_one(size: int, workers: int, epoch: int, skipped: int) -> None:
    length = -(-size // workers)
    skipped = min(skipped, length)
    endless = list(islice(iter(stream(size, 1, 0, 0)), (epoch + 1) * length * workers))
    drawn = []
    for rank in range(workers):
        by_epochs = stream(size, workers, rank, 0, epochs=True)
        by_epochs.set_epoch(epoch)
        by_epochs.skip(skipped)
        assert len(by_epochs) == length
        drawn += list(by_epochs)
    assert sorted(drawn) == endless[epoch * length * workers + skipped * workers :]


@few
@given(batch_size=st.integers(1, 8), iterations=st.integers(0, 1000))
def test_a_lane_counts_batches_where_mmengine_counts_samples(batch_size: int, iterations: int) -> None:
    loader = torch.utils.data.DataLoader(np.zeros(16), batch_size=batch_size)
    lane = Lane(Lockstep(), "a", lambda lane: None)
    LaneLoader(lane, loader, TRAINING, 1).skip(iterations * batch_size)
    assert lane.iterations == iterations
