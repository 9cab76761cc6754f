"""Sweep files: what they may say, and one helpful line for each mistake."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rdistill.core.errors import UserError
from rdistill.sweeps.study.spec import Choice, Integer, Pairs, SweepSpec, Uniform, choices, read_sweep

GOOD = """config: a.py
space:
  distill.losses.logits.weight: {type: loguniform, low: 1, high: 10}
search: {type: random, num_trials: 3}
"""
SWEEPS = Path(__file__).resolve().parents[4] / "sweeps"


@pytest.fixture
def problems(tmp_path: Path) -> Callable[[str], list[str]]:
    """The problems of a file with this text, without the file's name, which each must begin with."""

    def read(text: str) -> list[str]:
        file = tmp_path / "a.yaml"
        file.write_text(text)
        with pytest.raises(UserError) as caught:
            read_sweep(file)
        assert all(problem.startswith(f"{file}:") and "\n" not in problem for problem in caught.value.problems)
        return [problem.removeprefix(f"{file}:").strip() for problem in caught.value.problems]

    return read


def with_space(*dimensions: str, search: str = "{type: random, num_trials: 3}") -> str:
    return "\n".join(["config: a.py", "space:", *(f"  {line}" for line in dimensions), f"search: {search}", ""])


@pytest.mark.parametrize("file", sorted(SWEEPS.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_repositorys_own_files(file: Path) -> None:
    spec = read_sweep(file)
    assert (SWEEPS.parent / spec.config).is_file()
    assert spec.num_trials((3, 3)) >= 1


def test_defaults(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    spec = read_sweep(tmp_path / "a.yaml")
    assert (spec.search.seed, spec.scheduler.type, spec.trial.workers, spec.seed, spec.set) == (0, "fifo", 1, 0, {})
    assert spec.num_trials((3, 3)) == 3


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (GOOD + "serach: {}\n", "unknown key serach; did you mean 'search'?"),
        (GOOD.replace("num_trials", "num_trails"), "unknown key search.num_trails; did you mean 'num_trials'?"),
        (GOOD + "trial: {worker: 2}\n", "unknown key trial.worker; did you mean 'workers'?"),
        (GOOD + "scheduler: {grace_perod: 2}\n", "unknown key scheduler.grace_perod; did you mean 'grace_period'?"),
        (with_space("k: {type: uniform, lo: 1, low: 1, high: 2}"), "unknown key space.k.lo; did you mean 'low'?"),
        (with_space("k: {type: uniform, low: 1}"), "space.k.high: is required"),
        (with_space("k: {type: uniform, low: 2, high: 1}"), "space.k.low must be below high, got 2 and 1"),
        (with_space("k: {type: int, low: 3, high: 3}"), "space.k.low must be below high, got 3 and 3"),
        (
            with_space("distill.losses.a.tau: {type: loguniform, low: 0, high: 1}"),
            "space.distill.losses.a.tau.low must be > 0 on a log scale, got 0; raise it or use uniform",
        ),
        (
            with_space("k: {type: uniform, low: 1, high: 2}", search="{type: grid}"),
            "space.k: a grid needs values, got uniform; use choice, or another search.type",
        ),
        (
            with_space("k: {type: unifrom, low: 1, high: 2}"),
            "space.k.type: must be a kind of search dimension, got 'unifrom'; did you mean 'uniform'?",
        ),
        (
            with_space("k: {type: bell}"),
            "space.k.type: must be a kind of search dimension, got 'bell'; "
            "known: uniform, loguniform, int, choice, pairs",
        ),
        (
            with_space("k: {low: 1, high: 2}"),
            "space.k.type: must be a kind of search dimension, got None; known: ",
        ),
        (with_space("k: {type: choice, values: []}"), "space.k.values: must have at least 1 entry, got 0"),
        (
            with_space("distill.losses.a.weight: {type: pairs}"),
            "space.distill.losses.a.weight: type pairs is for a loss's `pair`, such as distill.losses.NAME.pair",
        ),
        (
            with_space("k: {type: int, low: 1, high: 2}", search="{}"),
            "search.num_trials: is required for auto search",
        ),
        (
            with_space("k: {type: int, low: 1, high: 2}", search="{type: random}"),
            "search.num_trials: is required for random search",
        ),
        (
            GOOD.replace("num_trials: 3", "num_trials: 0"),
            "search.num_trials: must be a whole number from 1 to 10000, got 0",
        ),
        (GOOD.replace("config: a.py\n", ""), "config: is required"),
        ("config: a.py\nspace: {}\n", "space: must have at least 1 entry, got 0"),
        (GOOD + "confirm: {top: 2}\n", "confirm.seeds: is required"),
        (GOOD + "confirm: {seeds: [1]}\n", "confirm.seeds: must have at least 2 entries, got 1"),
        (
            GOOD + "confirm: {seeds: [1, 0, 2]}\n",
            "confirm.seeds: 0 is the seed of the search, whose winners it favours",
        ),
        (GOOD + "confirm: {seeds: [1, 2, 1]}\n", "confirm.seeds: must differ from each other, got [1, 2, 1]"),
        (GOOD + "confirm: {sedes: [1, 2], seeds: [1, 2]}\n", "unknown key confirm.sedes; did you mean 'seeds'?"),
        (
            GOOD + "confirm: {seeds: atuo}\n",
            "confirm.seeds: must be 'auto', or a list of whole numbers from 0 such as [1, 2, 3], got 'atuo'",
        ),
        (GOOD + "confirm: {seeds: }\n", "confirm.seeds: must be 'auto' or a list of whole numbers, got None"),
        (
            GOOD + "confirm: {seeds: auto, min: 5, max: 3}\n",
            "confirm.min: must not be above max, got 5 and 3; lower it or raise max",
        ),
        (
            GOOD + "confirm: {seeds: auto, min: 20}\n",
            "confirm.min: must not be above max, got 20 and 16; lower it or raise max",
        ),
        (
            GOOD + "confirm: {seeds: auto, max: 1}\n",
            "confirm.max: must be a whole number from 2 to 64, got 1",
        ),
        (GOOD + "confirm: {seeds: auto, margin: .nan}\n", "confirm.margin: must be a finite number, got nan"),
        (GOOD + "confirm: {seeds: auto, margin: -1}\n", "confirm.margin: must be a number from 0 to 100, got -1"),
        (
            GOOD + "confirm: {seeds: auto, hours: 0}\n",
            "confirm.hours: must be a number above 0 and of at most 10000, got 0",
        ),
        (GOOD + "confirm: {seeds: auto, mim: 3}\n", "unknown key confirm.mim; did you mean 'min'?"),
        (
            GOOD + "confirm: {seeds: [1, 2], margin: 1}\n",
            "confirm.margin: does nothing with a list of seeds; use seeds: auto, or leave it out",
        ),
        (
            GOOD + "baseline: {cost: secs}\n",
            "baseline.cost: must be 'iterations', 'seconds' or 'both', got 'secs'; did you mean 'seconds'?",
        ),
        (GOOD + "baseline: {seconds: reel}\n", "baseline.seconds: must be 'real' or 'alone', got 'reel'; did you mean"),
        (GOOD + "baseline: {serach: {}}\n", "unknown key baseline.serach; did you mean 'search'?"),
        (
            GOOD + "baseline: {search: {lr: {type: uniform, low: 2, high: 1}}}\n",
            "baseline.search.lr.low must be below high, got 2 and 1",
        ),
        (
            GOOD + "baseline: {search: {lr: {type: uniform, low: 1, hihg: 2, high: 2}}}\n",
            "unknown key baseline.search.lr.hihg; did you mean 'high'?",
        ),
        (
            GOOD + "baseline: {search: {lr: {type: uniform, low: 1, high: 2}}, type: grid}\n",
            "baseline.search.lr: a grid needs values, got uniform; use choice, or another baseline.type",
        ),
        (
            GOOD + "baseline: {search: {distill.task_weight: {type: uniform, low: 1, high: 2}}}\n",
            "baseline.search.distill.task_weight: a baseline trains without distillation; vary its other keys",
        ),
        (GOOD + "baseline: {num_trials: 3}\n", "baseline.num_trials: has no baseline.search to choose from"),
        (GOOD + 'set: {"+a\\nimport os": 1}\n', r"set: '+a\nimport os' is no key"),
        (GOOD + 'set: {"": 1}\n', "set: '' is no key"),
        (GOOD + 'set: {"+": 1}\n', "set: '+' is no key"),
        (GOOD + "objectives: [params]\n", "objectives: must be mIoU and what else counts, each once, got ['params']"),
        (GOOD + "objectives: [mIoU, speed]\n", "objectives.1: must be 'mIoU', 'params', 'flops' or 'latency', got 's"),
        (GOOD + "cohort: {size: 0}\n", "cohort.size: must be 'auto', 'off' or a whole number of at least 1, got 0"),
        (
            GOOD + "trial: 3\n",
            "trial: must be a mapping with the keys workers, cpus_per_worker, gpus_per_worker, max_c",
        ),
        (with_space("k: 3"), "space.k: must be a mapping with a `type` (uniform, loguniform, int, choice, pairs)"),
        (with_space("k: {type: int, low: 1, high: 9, step: 0}"), "space.k.step: must be a whole number from 1 to"),
        (with_space("k: {type: uniform, low: .nan, high: 1}"), "space.k.low: must be a finite number, got nan"),
        (with_space("k: {type: uniform, low: 1, high: .inf}"), "space.k.high: must be a finite number, got inf"),
        (
            with_space("k: {type: uniform, low: no, high: 1}"),
            "space.k.low: must be a number from -1e+30 to 1e+30, got F",
        ),
        (
            with_space("k: {type: int, low: 1, high: 1e17}"),
            "space.k.high: must be a whole number from -9007199254740992",
        ),
        (with_space("k: {type: choice, values: [1, {a: [.nan]}]}"), "space.k.values.1.a.0: must be a finite number"),
        (GOOD + "set: {optim_wrapper.optimizer.lr: .nan}\n", "set.optim_wrapper.optimizer.lr: must be a finite number"),
        (GOOD + "set: {1: 2}\n", "set.1: a key must be text, got 1; put it in quotes"),
        (GOOD + "seed: -1\n", "seed: must be a whole number from 0 to 4294967295, got -1"),
        (GOOD + "seed: 4294967296\n", "seed: must be a whole number from 0 to 4294967295, got 4294967296"),
        (GOOD + "seed: yes\n", "seed: must be a whole number from 0 to 4294967295, got True"),
        (GOOD + "confirm: {seeds: [1, -1]}\n", "confirm.seeds.1: must be a whole number from 0 to 4294967295, got -1"),
        (GOOD + "confirm: {seeds: []}\n", "confirm.seeds: must have at least 2 entries, got 0"),
        (
            GOOD.replace("num_trials: 3", "num_trials: 10001"),
            "search.num_trials: must be a whole number from 1 to 10000, got 10001",
        ),
        (GOOD + "scheduler: {grace_period: 3}\n", "scheduler.grace_period: does nothing with type fifo; use type asha"),
        (
            GOOD + "scheduler: {type: asha, reduction_factor: 1}\n",
            "scheduler.reduction_factor: must be a number from 1.1 to 1000, got 1",
        ),
        (GOOD + "trial: {cpus_per_worker: .nan}\n", "trial.cpus_per_worker: must be a finite number, got nan"),
        (
            GOOD + "tracking: {wandb: {tags: [yes]}}\n",
            "tracking.wandb.tags.0: must be text, got True; put it in quotes",
        ),
        ("- config\n", "must be a mapping with the keys config and space, got a list"),
        ("", "must be a mapping with the keys config and space, got nothing"),
    ],
)
def test_a_mistake_is_one_helpful_line(problems: Callable[[str], list[str]], text: str, line: str) -> None:
    first, *others = problems(text)
    assert first.startswith(line)
    assert all("num_trials" in line for line in others)  # `space: {}` leaves that one out too


A_PAIR = "must be 'all', 'auto', or a list of pairs of indices such as [[0, 0], [1, 1]], got "


@pytest.mark.parametrize("pairs", ["[[0, 1], [2]]", "[0, 1]", "[]", "[[]]", "[[0, 1, 2]]", "[[0, -1]]", "{a: 1}", "3"])
def test_pairs_of_another_shape_are_one_line(problems: Callable[[str], list[str]], pairs: str) -> None:
    (line,) = problems(with_space(f"distill.losses.a.pair: {{type: pairs, pairs: {pairs}}}"))
    assert line.startswith(f"space.distill.losses.a.pair.pairs: {A_PAIR}")


def test_what_yaml_reads_as_a_switch_is_a_word_where_a_word_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD + "cohort: {size: off}\ntracking: off\nset: {off: 1e-3}\n")
    spec = read_sweep(tmp_path / "a.yaml")
    assert (spec.cohort.size, spec.tracking, spec.set) == ("off", False, {"off": 0.001})


def test_malformed_yaml_names_the_line(problems: Callable[[str], list[str]]) -> None:
    (line,) = problems(GOOD + "seed: [1, 2\ntrial: {}\n")
    number, text = line.split(":", maxsplit=1)
    assert int(number) in (5, 6) and text.startswith(" is not valid YAML: ")


def test_yaml_is_data_and_never_code(problems: Callable[[str], list[str]], tmp_path: Path) -> None:
    (line,) = problems(GOOD + f"seed: !!python/object/apply:os.mkdir ['{tmp_path}/made']\n")
    assert "is not valid YAML" in line and not (tmp_path / "made").exists()


def test_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "coef.yaml").write_text(GOOD)
    with pytest.raises(UserError) as caught:
        read_sweep(tmp_path / "coeff.yaml")
    assert str(caught.value) == f"{tmp_path}/coeff.yaml: no such sweep file; did you mean {tmp_path}/coef.yaml?"
    with pytest.raises(UserError, match=r"zzz: no such sweep file$"):
        read_sweep(tmp_path / "nowhere" / "zzz")


def test_all_mistakes_at_once(problems: Callable[[str], list[str]]) -> None:
    lines = problems(
        "space:\n  k: {type: int, low: one, high: 2}\nserach: {}\ntrial: {worker: 1, cpus_per_worker: 0}\n"
    )
    assert sorted(line.removeprefix("unknown key ").split()[0].rstrip(":;") for line in lines) == [
        "config", "serach", "space.k.low", "trial.cpus_per_worker", "trial.worker",
    ]  # fmt: skip
    in_values = problems(
        with_space("a: {type: uniform, low: 2, high: 1}", "b: {type: loguniform, low: -1, high: 1}", search="{}")
    )
    assert [line.split()[0].rstrip(":") for line in in_values] == ["space.a.low", "space.b.low", "search.num_trials"]


def test_values_of_discrete_dimensions() -> None:
    assert choices(Choice(type="choice", values=[1, [2, 3], "x"]), (0, 0)) == [1, [2, 3], "x"]
    assert choices(Integer(type="int", low=1, high=3), (0, 0)) == [1, 2, 3]
    assert choices(Pairs(type="pairs", pairs=[(0, 1), (2, 0)]), (3, 2)) == [[0, 1], [2, 0]]
    every = choices(Pairs(type="pairs"), (3, 2))
    assert every == [[0, 0], [0, 1], [1, 0], [1, 1], [2, 0], [2, 1]]
    with pytest.raises(TypeError):
        choices(Uniform(type="uniform", low=0, high=1), (0, 0))


@pytest.mark.parametrize(("num_trials", "expected"), [(None, 24), (5, 5)])
def test_size_of_a_grid(num_trials: int | None, expected: int) -> None:
    space = {
        "distill.losses.a.pair": {"type": "pairs", "pairs": "all"},
        "k": {"type": "choice", "values": [1, 2]},
        "n": {"type": "int", "low": 0, "high": 1},
    }
    spec = SweepSpec.model_validate(
        {"config": "a.py", "space": space, "search": {"type": "grid", "num_trials": num_trials}}
    )
    assert spec.problems() == [] and spec.num_trials((3, 2)) == expected


def test_how_many_are_trained() -> None:
    rate = {"lr": {"type": "choice", "values": [1, 2, 3]}}
    content = {"config": "a.py", "space": {"k": {"type": "int", "low": 1, "high": 9}}, "search": {"num_trials": 8}}
    counts = [
        (spec.num_trials((0, 0)), spec.num_baselines((0, 0)), spec.num_students((0, 0)))
        for more in (
            {},
            {"baseline": {"search": rate}},  # there would be as many as in the search, but none of three values twice
            # Each seed has the baseline, two configurations, and a baseline of equal cost for each of these.
            {"baseline": {"search": rate, "type": "grid"}, "confirm": {"top": 2, "seeds": [1, 2]}},
            {
                "baseline": {"search": rate, "type": "grid", "cost": "iterations"},
                "confirm": {"top": 2, "seeds": [1, 2]},
            },
            {"baseline": {"cost": "iterations"}, "confirm": {"top": 1, "seeds": "auto", "max": 9}},
            {"baseline": {"search": rate, "num_trials": 2}},
        )
        for spec in [SweepSpec.model_validate({**content, **more})]
    ]
    assert counts == [(8, 1, 9), (8, 4, 12), (8, 4, 22), (8, 4, 18), (8, 1, 27), (8, 3, 11)]


@pytest.mark.parametrize(
    ("space", "alone"),
    [
        (["distill.losses.logits.weight"], ["optim.lr", "+model.head.weight"]),
        (["+optim.lr"], ["+model.head.weight"]),
        (["optim", "model.head.weight.first"], []),
        (["optim.l", "model.head.weights"], ["optim.lr", "+model.head.weight"]),
    ],
)
def test_keys_that_are_searched_for_baselines_alone(space: list[str], alone: list[str]) -> None:
    """A key is searched for the others too if they search it, a section with it, or a part of it."""
    dimension = {"type": "choice", "values": [1, 2]}
    search = dict.fromkeys(["optim.lr", "+model.head.weight"], dimension)
    content = {"config": "a.py", "space": dict.fromkeys(space, dimension), "baseline": {"search": search}}
    assert SweepSpec.model_validate({**content, "search": {"type": "grid"}}).keys_of_baselines_alone == alone
