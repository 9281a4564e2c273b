"""What the figures share: colours, horizontal bars with intervals, a heading, and the line below.

A figure shows every case that was asked for. A case without a speed keeps its row, with its status and reason in the
place of the bar. Published numbers are hatched and carry the word; nothing else is ever hatched.
"""

import hashlib
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib

matplotlib.use("svg")  # no display is needed, and none may be assumed

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from sparsemark.files import atomic_path
from sparsemark.results.measurements import kilo, times, why_missing
from sparsemark.results.ratios import Estimate, rounds_measured, throughput

#: Colours that stay apart for colour-blind readers (Okabe and Ito; Tol).
#: An engine that is not listed gets one of `_OTHER_COLOURS`, always the same.
COLOURS = {
    "pytorch_eager": "#999999",
    "pytorch_torchscript": "#777777",
    "pytorch_compile": "#555555",
    "pytorch_inductor": "#333333",
    "onnxruntime": "#0072B2",
    "openvino": "#56B4E9",
    "tvm": "#009E73",
    "deepsparse": "#CC79A7",
    "ncnn": "#E69F00",
    "mnn": "#882255",
    "executorch": "#999933",
    "litert": "#332288",
    "dualsparse": "#D55E00",
}
_OTHER_COLOURS = ["#E69F00", "#999933", "#AA4499", "#44AA99", "#882255", "#DDCC77", "#332288", "#117733"]
PUBLISHED_COLOUR = "#6B3FA0"
INK = "#222222"
POSSIBLE = "#DCDCDC"
QUIET = "#666666"


#: Ticks of an axis of sparsity, in percent.
SPARSITY_TICKS = (0, 50, 80, 90, 95, 98, 99, 99.5)

WIDTH = 7.2  # inches: the text width of a printed page, so that 9 points stay 9 points
FONT = 9.5
#: From this span between the smallest and the largest bar on, a linear axis hides the small ones.
LOG_SPAN = 30.0
#: An interval that goes beyond the largest bar times this ends there in an arrow, lest it squeezes all bars.
LONGEST_WHISKER = 1.5


# ------------------------------------------------------------------------------------------------------ colours


def engine_colour(name: str) -> str:
    """Return an engine's colour, the same in all figures of all studies."""
    if name in COLOURS:
        return COLOURS[name]
    return _OTHER_COLOURS[hashlib.sha256(name.encode()).digest()[0] % len(_OTHER_COLOURS)]


# --------------------------------------------------------------------------------------------------------- bars


def tick_label(value: float, write=kilo) -> str:
    """Return an axis label: a round number needs no trailing zeroes."""
    text = write(value)
    digits = text.rstrip("kM×")
    return (digits.rstrip("0").rstrip(".") if "." in digits else digits) + text[len(digits) :]


@dataclass
class Bar:
    """One bar. Without an estimate its place shows `note`, the reason."""

    estimate: Estimate | None
    colour: str
    note: str = ""
    pale: bool = False
    published: bool = False
    possible: float | None = None  # a grey bar behind, on the same scale: what could be reached


@dataclass
class Row:
    """A label and the bars beside it, top to bottom."""

    label: str
    bars: list[Bar] = field(default_factory=list)


def speed_bar(rows: pd.DataFrame, *, note: str = "", pale: bool = False) -> Bar:
    """Return the bar of one case's throughput; `note` follows its value, and so do rounds that failed."""
    estimate = throughput(rows)
    colour = engine_colour(rows["engine"].iloc[0]) if len(rows) else QUIET
    if estimate is None:
        return Bar(None, colour, why_missing(rows), pale)
    failed = rows["round"].nunique() - rounds_measured(rows)
    if failed:
        note = f"{note}, {failed} of {rows['round'].nunique()} rounds failed".lstrip(", ")
    return Bar(estimate, colour, note, pale)


def published_row(entry: pd.Series) -> Row:
    """Return the bar of one published throughput."""
    value = float(entry["throughput_words_per_s"])
    scope = f"{entry['networks_on_chip']} networks on the chip" if entry["networks_on_chip"] > 1 else "one network"
    bar = Bar(Estimate(value, math.nan, math.nan, 1), PUBLISHED_COLOUR, f"published, {scope}", published=True)
    return Row(f"FPGA {entry['network']}", [bar])


def layout_note(rows: pd.DataFrame) -> str:
    """Return the best layout of a whole-processor case, e.g. "2 × 1 thread"."""
    layouts = rows.loc[rows["status"] == "ok", "layout"]
    if not len(layouts):
        return ""
    instances, _, threads = layouts.mode().iloc[0].partition("x")
    return f"{instances} × {threads} thread{'s' if threads != '1' else ''}" if threads else instances


def _blend(colour: str, share: float) -> tuple[float, ...]:
    """Return `colour` on white, `share` of it: opaque, so that grid lines don't shine through."""
    return tuple(1 - share * (1 - channel) for channel in to_rgb(colour))


def draw_rows(axes: Axes, rows: Sequence[Row], label: str, *, gains: bool = False, log: bool | None = None) -> None:
    """Draw rows of horizontal bars, first row on top, with values, notes and intervals.

    `label` names the quantity and its unit; the axis is logarithmic, and says so, if the bars span more than LOG_SPAN.
    Bars of `gains` begin at a line at 1: what is slower reaches to the left of it.
    """
    write = times if gains else kilo
    values = [bar.estimate.value for row in rows for bar in row.bars if bar.estimate]
    values += [bar.possible for row in rows for bar in row.bars if bar.possible]
    values += [1.0] * gains
    low, high = (min(values), max(values)) if values else (1.0, 10.0)
    log = high / low > LOG_SPAN if log is None else log
    # A bar on a logarithmic axis has no natural foot: it starts at a round number below the smallest value.
    floor = _round_down(0.8 * low) if log else 0.0
    axes.set_xscale("log" if log else "linear")
    height, gap = 0.8, 0.55
    position, ticks, texts = 0.0, [], []
    for row in rows:
        top = position
        for bar in row.bars:
            limits = (floor, LONGEST_WHISKER * high)
            texts.append(_draw_bar(axes, bar, position, height, 1.0 if gains else floor, limits, write))
            position += 1
        ticks.append((top + position - 1) / 2)
        position += gap
    if gains:
        axes.axvline(1, color=INK, linewidth=0.9, linestyle="--", zorder=3)
    axes.set_yticks(ticks, [row.label for row in rows])
    axes.set_ylim(max(position - gap, 1) - 0.4, -0.6)
    if log:
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick_label(value, write)))
    if log:
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / floor < 300 else (1,), numticks=20))
    axes.set_xlabel(f"{label}, logarithmic scale" if log else label, loc="left")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    limit = _room_for_texts(axes, texts, floor, high, log)
    axes.set_xlim(floor, limit)
    axes.set_xticks([tick for tick in axes.get_xticks() if floor <= tick <= high * 1.2])
    axes.set_xlim(floor, limit)


def _room_for_texts(axes: Axes, texts: list[tuple[float, Sequence]], floor: float, high: float, log: bool) -> float:
    """Return the right limit of x at which no text is cut off.

    Args:
        texts: per bar, where it ends in data units, and the annotations behind it.
    """
    axes.set_xlim(floor, high)
    axes.figure.draw_without_rendering()
    width = axes.get_window_extent().width
    limit = high
    for end, behind in texts:
        boxes = [text.get_window_extent() for text in behind]
        taken = max(box.x1 for box in boxes) - min(box.x0 for box in boxes) + 2 * FONT
        # Too long a text is cut off rather than every bar squeezed.
        stretch = width / (width - min(taken, 0.75 * width))
        limit = max(limit, floor * (end / floor) ** stretch if log else end * stretch)
    return limit


def _round_down(value: float) -> float:
    """Return the largest of 1, 2, 5 times a power of ten that is not above `value`."""
    decade = 10.0 ** math.floor(math.log10(value))
    return max(step * decade for step in (1, 2, 5) if step * decade <= value)


def _draw_bar(
    axes: Axes, bar: Bar, position: float, height: float, foot: float, limits: tuple[float, float], write
) -> tuple[float, list]:
    """Draw one bar from `foot`; return where it ends in data units, and the texts that need room behind it."""
    floor, farthest = limits
    if bar.estimate is None:
        text = textwrap.shorten(bar.note, 74, placeholder=" …")
        missing = axes.annotate(
            f"✕ {text}",
            (floor, position),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=FONT - 0.5,
            style="italic",
            color=QUIET,
        )
        missing.set_in_layout(False)
        return floor, [missing]
    estimate = bar.estimate
    style = {"facecolor": _blend(bar.colour, 0.45 if bar.pale else 1.0), "linewidth": 0}
    if bar.published:
        style = {"facecolor": "white", "edgecolor": bar.colour, "hatch": "////", "linewidth": 1.0}
    axes.barh(position, estimate.value - foot, height, left=foot, zorder=2, **style)
    end = max(estimate.value, foot)
    if estimate.has_interval:
        low, high = max(estimate.low, floor), min(estimate.high, farthest)
        end = max(end, high)
        axes.plot([low, high], [position, position], color=INK, linewidth=1.3, zorder=3)
        for shown, limit, arrow in ((low, estimate.low, "<"), (high, estimate.high, ">")):
            marker = "|" if shown == limit else arrow
            axes.plot(shown, position, marker=marker, color=INK, markersize=5, markeredgewidth=1.3, zorder=3)
    if bar.possible:
        axes.barh(position, bar.possible - foot, height, left=foot, zorder=1.5, facecolor=POSSIBLE, linewidth=0)
        end = max(end, bar.possible)
    value = axes.annotate(
        write(estimate.value),
        (end, position),
        xytext=(5, 0),
        textcoords="offset points",
        annotation_clip=False,
        va="center",
        fontsize=FONT,
        color=INK,
        fontweight="bold",
        zorder=5,
    )
    texts = [value]
    if bar.note:
        note = axes.annotate(
            bar.note,
            (1, 0.5),
            xycoords=value,
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=FONT - 0.5,
            color=QUIET,
            zorder=5,
        )
        texts.append(note)
    for text in texts:
        # The layout must not shrink the axes for a text that the axes will make room for.
        text.set_in_layout(False)
    return end, texts


def keys(*, pale: str = "", full: str = "", published: bool = False, possible: str = "") -> list[Patch]:
    """Return the legend's entries that explain the tones and hatching of `draw_rows`."""
    handles = []
    if pale:
        handles.append(Patch(facecolor=_blend(INK, 0.35), label=pale))
    if full:
        handles.append(Patch(facecolor=_blend(INK, 0.75), label=full))
    if possible:
        handles.append(Patch(facecolor=POSSIBLE, label=possible))
    if published:
        handles.append(Patch(facecolor="white", edgecolor=PUBLISHED_COLOUR, hatch="////", label="published"))
    return handles


# ------------------------------------------------------------------------------------------------------- figures


def sparsity_axis(axes: Axes, smallest: float, label: str) -> None:
    """Make x, the share that is left, a logarithmic axis labelled with the share that is gone, in percent."""
    axes.set_xscale("log")
    axes.set_xlim(1.3, smallest / 1.3)
    shown = [gone for gone in SPARSITY_TICKS if 1 - gone / 100 >= smallest / 1.3]
    axes.xaxis.set_major_locator(FixedLocator([1 - gone / 100 for gone in shown]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda left, _: f"{100 * (1 - left):.3g}"))
    axes.set_xlabel(f"{label} in %")


def heading(figure: Figure, title: str, handles: Sequence = (), columns: int | None = None) -> None:
    """Put the title, and the legend below it, at the figure's upper left corner."""
    figure.legend(
        handles=list(handles),
        title=title,
        title_fontproperties={"size": FONT + 2, "weight": "bold"},
        alignment="left",
        loc="outside upper left",
        ncols=columns or max(1, len(handles)),
        frameon=False,
        borderpad=0,
        columnspacing=1.4,
    )


def new_figure(rows: float, *, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """Return an empty figure, high enough for `rows` bars, and its axes from left to right, with y in common."""
    sns.set_theme(
        style="whitegrid",
        rc={
            "font.size": FONT,
            "axes.labelsize": FONT,
            "xtick.labelsize": FONT - 0.5,
            "ytick.labelsize": FONT,
            "legend.fontsize": FONT - 0.5,
            "font.family": "sans-serif",
            "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],  # an SVG's reader may lack the first
            "svg.fonttype": "none",  # text stays text: it can be searched, and prints sharply
            "svg.hashsalt": "sparsemark",  # the same table gives the same bytes
            "grid.color": "#E4E4E4",
            "axes.edgecolor": "#BBBBBB",
            "hatch.linewidth": 0.8,
            "text.color": INK,
            "axes.labelcolor": INK,
        },
    )
    figure, axes = plt.subplots(
        1, columns, figsize=(WIDTH, max(2.6, 1.5 + 0.235 * rows)), layout="constrained", squeeze=False, sharey=True
    )
    for panel in axes[0]:
        sns.despine(ax=panel, left=True)
    return figure, list(axes[0])


def nothing(axes: Axes, text: str) -> None:
    """Say in an empty figure why it is empty."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, textwrap.fill(text, 70), ha="center", va="center", color=QUIET, transform=axes.transAxes)


def save(figure: Figure, path: Path, text: str) -> None:
    """Write the figure with `text` under it, atomically and with the same bytes every time."""
    figure.supxlabel(textwrap.fill(text, 100), x=0.01, ha="left", fontsize=FONT - 0.5, color=QUIET)
    options = {"metadata": {"Date": None}} if Path(path).suffix == ".svg" else {"dpi": 130}
    with atomic_path(path) as partial:
        figure.savefig(partial, **options)
    plt.close(figure)
