"""Extensions of a sweep that a resume accepts: more trials, more seeds, wider ranges, more starting configurations."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from rdistill.schemas.mappings import PlainConfig
from rdistill.sweeps.study.spec import AUTO, LAST_LOOK

Sweep = PlainConfig  # the keys of a sweep file, as its record has them
GROWN = "grown"  # key of a study's record: how often its search was extended


def accept_growth(begun: Sweep, wanted: Sweep) -> tuple[Sweep, bool]:
    """The recorded sweep, with those of its keys replaced that the wanted sweep only extends.

    Args:
        begun: the sweep's keys as they were recorded.
        wanted: the sweep's keys as they are now.

    Returns:
        The recorded keys after that, which differ from ``wanted`` only if it is another study; and whether the search
        was extended.
    """
    result = copy.deepcopy(begun)
    searches = [
        _take(result, wanted, ("search", "num_trials"), _is_more),
        _take(result, wanted, ("search", "start"), _holds_all),
        _take(result, wanted, ("baseline", "num_trials"), _is_more),
        *(_take(result, wanted, ("space", key), _is_wider) for key in begun["space"]),
        *(_take(result, wanted, ("baseline", "search", key), _is_wider) for key in begun["baseline"]["search"]),
    ]
    if begun.get("confirm") is not None and wanted.get("confirm") is not None:
        _take(result, wanted, ("confirm", "seeds"), _is_longer)
        if begun["confirm"]["seeds"] == wanted["confirm"]["seeds"] == AUTO:
            _take(result, wanted, ("confirm", "max"), _has_more_looks)
        # `confirm.hours` may change freely, since it can only refuse a confirmation.
        _take(result, wanted, ("confirm", "hours"), lambda before, now: True)
    return result, any(searches)


def _take(begun: Sweep, wanted: Sweep, path: tuple[str, ...], grows: Callable[[Any, Any], bool]) -> bool:
    """Sets the key at ``path`` to the wanted value if that extends the recorded value. Returns whether it was set."""
    *parents, last = path
    for parent in parents:
        begun, wanted = begun.get(parent) or {}, wanted.get(parent) or {}
    if last not in begun or last not in wanted or begun[last] == wanted[last]:
        return False
    if not grows(begun[last], wanted[last]):
        return False
    begun[last] = copy.deepcopy(wanted[last])
    return True


def _is_more(before: Any, now: Any) -> bool:
    return isinstance(before, int) and isinstance(now, int) and now > before


def _is_longer(before: Any, now: Any) -> bool:
    """Whether a list of seeds has all earlier seeds; False if one of the two is not a list."""
    return isinstance(before, list) and isinstance(now, list) and _holds_all(before, now)


def _has_more_looks(before: Any, now: Any) -> bool:
    """Whether ``confirm.max`` is at least as large as before; None stands for its default."""
    return (LAST_LOOK if now is None else int(now)) >= (LAST_LOOK if before is None else int(before))


def _holds_all(before: list[Any], now: list[Any]) -> bool:
    return all(value in now for value in before)


def _is_wider(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether a dimension has all the values that it had before."""
    grow = {"low", "high", "values", "pairs"}
    if {key: value for key, value in before.items() if key not in grow} != {
        key: value for key, value in now.items() if key not in grow
    }:
        return False
    if "values" in before:
        return _holds_all(before["values"], now["values"])
    if "pairs" in before:
        lists = isinstance(before["pairs"], list) and isinstance(now["pairs"], list)
        return now["pairs"] == "all" or (lists and _holds_all(before["pairs"], now["pairs"]))
    if now["low"] > before["low"] or now["high"] < before["high"]:
        return False
    steps = (before["low"] - now["low"]) / (before.get("step") or 1)
    return before.get("step") in (None, 1) or abs(steps - round(steps)) < 1e-6
