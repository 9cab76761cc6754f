"""The verdict card, an image of 16 by 9 for a slide: the verdict, its interval, the models' costs, the next step."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from rdistill.core.words import counted
from rdistill.report import facts
from rdistill.report.load import Sweep
from rdistill.report.plot import Plot, zero_line
from rdistill.report.scores import DifferenceRow, difference_range, difference_traces
from rdistill.report.standing import next_steps, standing
from rdistill.report.text import Table
from rdistill.report.theme import Layout, as_text, layout

WIDTH, HEIGHT = 1280, 720  # pixels
LETTERS = 74  # the largest number of letters in a line of the answer
MAX_LINES = 4
EDGE = 64  # pixels between the text and the border


def verdict_card(sweep: Sweep, verdict: str, rows: Sequence[DifferenceRow], models: Table | None) -> Plot | None:
    """The card; None before the first trial has written a record.

    Args:
        sweep: the sweep.
        verdict: the verdict, of which the first sentence is drawn.
        rows: the confirmed differences, of which those of the winner are drawn.
        models: the table from :func:`rdistill.report.models.models_table`.
    """
    if not sweep.records:
        return None
    stand = standing(sweep)
    own = [row for row in rows if row.of == sweep.winner.get("id")]
    answer = re.split(r"(?<=[^.][.!?]) (?=[A-Z])", verdict)[0]
    lines = textwrap.wrap(answer, LETTERS, max_lines=MAX_LINES, placeholder=" …")
    texts = [
        _text(f"Distillation sweep: {sweep.name}", 0, HEIGHT - 56, 20, "$muted"),
        _text(stand.word, 0, HEIGHT - 118, min(44, round(1800 / len(stand.word))), f"${stand.colour}", bold=True),
        *[_text(line, 0, HEIGHT - 178 - 34 * index, 25, "$ink") for index, line in enumerate(lines)],
    ]
    top = HEIGHT - 200 - 34 * len(lines)  # pixels above the lower edge
    if own:
        texts.append(_text("Difference to the student alone, mIoU, with 95 % interval", 0, top - 22, 18, "$muted"))
    else:
        shown = [fact for fact in facts.headline(sweep) if fact.colour]
        for index, fact in enumerate(shown[:3]):
            left = index * 200
            texts += [
                _text(fact.label, left, top - 22, 18, "$muted"),
                _text(fact.value, left, top - 68, 40, f"${fact.colour}", bold=True),
                _text(fact.note, left, top - 108, 16, "$muted"),
            ]
    if models is not None:
        texts += _table(models, 592, top - 22)
    steps = next_steps(sweep)
    if steps:
        text = textwrap.shorten(f"What next: {steps[0].text}", 118, placeholder=" …")
        texts.append(_text(text, 0, 62, 20, "$ink"))
    texts.append(_text(_foot(sweep), 0, 26, 16, "$muted"))
    low, high = difference_range(own)
    figure = layout(
        width=WIDTH,
        margin=dict(l=EDGE, r=EDGE, t=0, b=0, pad=0),
        xaxis=dict(
            domain=[0.13, 0.48],
            range=[low, high],
            anchor="y",
            tickfont=dict(size=16),
            visible=bool(own),
            automargin=False,
        ),
        yaxis=dict(
            domain=[126 / HEIGHT, max(0.3, (top - 46) / HEIGHT)],
            range=[len(own) - 0.4, -0.6],
            type="category",
            showline=False,
            ticks="",
            tickfont=dict(size=17),
            visible=bool(own),
            automargin=False,
        ),
        annotations=texts,
        shapes=[zero_line(low, high, "y domain")] if own else [],
        showlegend=False,
    )
    data = difference_traces([row.named(row.kind) for row in own]) or [dict(type="scatter", x=[None], y=[None])]
    table = models or Table(stand.word, [], [])
    return Plot(
        "verdict-card", "Verdict", f"{stand.word}. {answer}", data, figure, table, height=HEIGHT, min_width=WIDTH
    )


def _text(text: str, x: float, y: float, size: int, colour: str, *, bold: bool = False, end: bool = False) -> Layout:
    """A line of text; ``x`` and ``y`` are in pixels from the lower left corner of the drawing area."""
    shown = as_text(text)
    return dict(
        text=f"<b>{shown}</b>" if bold else shown,
        x=x / (WIDTH - 2 * EDGE),
        y=y / HEIGHT,
        xref="paper",
        yref="paper",
        xanchor="right" if end else "left",
        yanchor="middle",
        align="left",
        showarrow=False,
        font=dict(size=size, color=colour),
    )


def _table(models: Table, x: float, y: float) -> list[Layout]:
    """The rows of the table of models, with right-aligned columns."""
    ends = [x + 216 + 86 * index for index in range(1, len(models.columns))]
    heads = [
        _text(column.name.replace("parameters", "params").replace("latency, ms", "ms"), end, y, 18, "$muted", end=True)
        for column, end in zip(models.columns[1:], ends, strict=True)
    ]
    colours = {"is-teacher": "$teacher", "is-baseline": "$baseline", "is-best": "$best"}
    texts = []
    for index, row in enumerate(models.rows):
        place, colour = y - 42 * (index + 1), colours.get(models.mark(index), "$ink")
        texts.append(_text(row[0].text, x, place, 17, colour, bold=True))
        texts += [_text(item.text, end, place, 18, "$ink", end=True) for item, end in zip(row[1:], ends, strict=True)]
    return [*heads, *texts]


def _foot(sweep: Sweep) -> str:
    seeds = sweep.confirmed.get("seeds") or []
    parts = [f"{counted(len(sweep.trials), 'trial')} searched"]
    if seeds:
        parts.append(f"confirmed on {counted(len(seeds), 'fresh seed')}")
    images = sweep.images.get("images")
    if images:
        parts.append(counted(images, "validation image"))
    return ", ".join([*parts, "rdistill"])
