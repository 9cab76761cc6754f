"""Colours for light and dark pages. A figure has names of colours (``$best``), which the page and the PNGs replace.

The hues are those of Okabe and Ito, which colour-blind people can distinguish, darkened or lightened for contrast.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, "Liberation Sans", sans-serif'
SEQUENCE = 9  # steps of the sequential colour scale, from the background to the strongest colour
SERIES = 8  # number of colours for a series of names, such as losses

LIGHT: dict[str, str] = {
    "paper": "#ffffff",
    "ink": "#1d2129",
    "muted": "#5a6270",
    "faint": "#9aa2ae",
    "grid": "#e6e8ec",
    "line": "#c3c8d0",
    "best": "#0072b2",
    "baseline": "#c25400",
    "teacher": "#00795a",
    "other": "#8a93a1",
    "bad": "#b3261e",
}
DARK: dict[str, str] = {
    "paper": "#15181d",
    "ink": "#e8eaee",
    "muted": "#a6aebb",
    "faint": "#7b8492",
    "grid": "#2a2f37",
    "line": "#4a515c",
    "best": "#5cb8f0",
    "baseline": "#f2a03d",
    "teacher": "#3ecf9f",
    "other": "#79828f",
    "bad": "#ff8a80",
}
_LIGHT_SEQUENCE = ["#eaf3fa", "#cfe3f1", "#aed0e7", "#86b8da", "#5c9dca", "#3a82b7", "#20689f", "#0f4f82", "#073763"]
_DARK_SEQUENCE = ["#20303d", "#24415a", "#285376", "#2d6794", "#357db2", "#4695cc", "#66aee0", "#93c9ef", "#c9e5fa"]
_LIGHT_SERIES = ["#0072b2", "#c25400", "#00795a", "#a8488a", "#7a6a00", "#3d5a80", "#b3261e", "#5a6270"]
_DARK_SERIES = ["#5cb8f0", "#f2a03d", "#3ecf9f", "#e58fc6", "#e6d65a", "#9db7e0", "#ff8a80", "#a6aebb"]
for theme, sequence, series in ((LIGHT, _LIGHT_SEQUENCE, _LIGHT_SERIES), (DARK, _DARK_SEQUENCE, _DARK_SERIES)):
    theme.update({f"sequence{index}": colour for index, colour in enumerate(sequence)})
    theme.update({f"series{index}": colour for index, colour in enumerate(series)})

COLORSCALE = [[index / (SEQUENCE - 1), f"$sequence{index}"] for index in range(SEQUENCE)]

# Parts of plotly's figures, with plotly's keys.
Trace = dict[str, Any]  # one trace: a curve, a bar chart or a heat map
Layout = dict[str, Any]  # a figure's layout, or a part of it


def layout(**own: Any) -> Layout:
    """The layout that all figures share, with the given parts merged in, one level deep."""
    axis: Layout = dict(
        gridcolor="$grid",
        linecolor="$line",
        zerolinecolor="$line",
        zeroline=False,
        ticks="outside",
        ticklen=4,
        tickcolor="$line",
        showline=True,
        automargin=True,
        title=dict(standoff=10, font=dict(color="$muted", size=13)),
    )
    shared: Layout = dict(
        paper_bgcolor="$paper",
        plot_bgcolor="$paper",
        font=dict(family=FONT, size=13, color="$ink"),
        margin=dict(l=56, r=16, t=40, b=48),
        hoverlabel=dict(bgcolor="$paper", bordercolor="$line", font=dict(color="$ink", family=FONT)),
        legend=dict(orientation="h", x=0, xanchor="left", y=1.02, yanchor="bottom", bgcolor="rgba(0,0,0,0)"),
        hovermode="closest",
        dragmode=False,
    )
    merged = {key: {**value, **own.pop(key, {})} if isinstance(value, dict) else value for key, value in shared.items()}
    axes = {key: value for key, value in own.items() if key.startswith(("xaxis", "yaxis"))}
    for key in {"xaxis", "yaxis", *axes}:
        own_axis = dict(own.pop(key, {}))
        title = own_axis.pop("title", None)
        merged[key] = {**axis, **own_axis, **({"title": {**axis["title"], "text": as_text(title)}} if title else {})}
    return {**merged, **own}


def log_ticks(low: float, high: float) -> Layout:
    """Ticks of a logarithmic axis from ``low`` to ``high``; with more decades, each has fewer ticks."""
    decades = math.log10(high / low)
    steps = (1, 2, 5) if decades < 2 else (1, 3) if decades < 4 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [step * 10.0**power for power in powers for step in steps]
    return dict(tickvals=values, ticktext=[f"{value:.3g}" for value in values])


def round_step(low: float, high: float, count: int = 5) -> float:
    """The distance of about ``count`` ticks from ``low`` to ``high``: 1, 2 or 5 times a power of ten."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    return next(step * power for step in (1, 2, 5, 10) if rough <= step * power * 1.0001)


def round_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers within ``low`` and ``high``."""
    if not high > low:
        return [low]
    step = round_step(low, high, count)
    first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
    return [float(f"{index * step:.10g}") for index in range(first, last + 1)]


def round_range(values: Iterable[float | None], minimum: float = -math.inf, maximum: float = math.inf) -> list[float]:
    """The ends of an axis that shows all values, at round numbers.

    Args:
        values: the values; None is ignored.
        minimum, maximum: the axis does not go beyond these, for example 0 and 100 %.
    """
    finite = [value for value in values if value is not None]
    if not finite:
        return [max(minimum, 0.0), min(maximum, 1.0)]
    low, high = max(min(finite), minimum), min(max(finite), maximum)
    if not high > low:
        low, high = max(low - 1, minimum), min(high + 1, maximum)
    step = round_step(low, high, 10)
    # The axis gets up to half a step of room on both sides, so that no mark lies on the border.
    ends = (math.floor(low / step - 0.25) * step, math.ceil(high / step + 0.25) * step)
    return [max(float(f"{ends[0]:.10g}"), minimum), min(float(f"{ends[1]:.10g}"), maximum)]


def percent_range(values: Iterable[float | None]) -> list[float]:
    """:func:`round_range` within 0 to 100 %."""
    return round_range(values, 0.0, 100.0)


def as_text(text: str) -> str:
    """A text that plotly shows unchanged: `&` and `<` are escaped, since plotly reads some HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;")


def coloured(value: Any, theme: dict[str, str]) -> Any:
    """A figure with the names of colours replaced by the theme's values, like the page's script does."""
    if isinstance(value, dict):
        return {key: coloured(item, theme) for key, item in value.items()}
    if isinstance(value, list):
        return [coloured(item, theme) for item in value]
    return theme.get(value[1:], value) if isinstance(value, str) and value.startswith("$") else value
