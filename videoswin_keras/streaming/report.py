"""The report of a recording that a person looks at: a picture, and a page that holds the picture and the tables."""

import base64
import html
import io
import itertools
import math
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from videoswin_keras import optional
from videoswin_keras.atomic import replacing
from videoswin_keras.streaming.about import About, length_of_time
from videoswin_keras.streaming.clocks import seconds_after
from videoswin_keras.streaming.timeline import THRESHOLD, ClassSummary, Result, Timeline, summarise, transitions
from videoswin_keras.text import printable

COLUMNS = 1500  # of the hypnodensity; a longer recording has several results in one
_GAP_COLOUR = "0.75"
# Matplotlib's, but for the grey, which is what gaps are drawn in.
COLOURS = (
    *("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd"),
    *("#8c564b", "#e377c2", "#003f5c", "#bcbd22", "#17becf"),
)
MOST_CLASSES = len(COLOURS)  # that are drawn: those with the most time


class Density:
    """The mean probabilities of a recording's results in equal steps of time, whatever its length.

    Args:
        duration: Float. Seconds.
        num_classes: Integer.

    Attributes:
        probabilities: (columns, num_classes), NaN where nothing is known.
        edges: Seconds at which the columns begin, and the last ends.
    """

    def __init__(self, results: Iterable[Result], duration: float, num_classes: int):
        self.edges = np.linspace(0.0, max(duration, 1e-9), COLUMNS + 1)
        sums, counts = np.zeros((COLUMNS, num_classes)), np.zeros(COLUMNS)
        is_gap = np.zeros(COLUMNS, bool)
        for result in results:
            first, last = np.searchsorted(self.edges, (result.start, result.end - 1e-9), side="right") - 1
            columns = slice(max(first, 0), last + 1)
            if result.probabilities is None:
                is_gap[columns] = True
            else:
                sums[columns] += result.probabilities
                counts[columns] += 1
        sums[is_gap] = np.nan
        self.probabilities = sums / np.where(counts, counts, np.nan)[:, None]


def draw(density: Density, timeline: Timeline, about: About) -> Any:
    """Returns a matplotlib figure: hypnogram, hypnodensity, transitions, time per class. It is not shown.

    Of classes that are there or not each by itself there are curves in place of the hypnodensity, and no transitions.
    """
    with optional.needed("Drawing a report", "matplotlib"):
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    with matplotlib.rc_context({"text.parse_math": False}):  # a "$" in a name is a dollar
        return _draw(FigureCanvasAgg(Figure(figsize=(13, 9), layout="constrained")).figure, density, timeline, about)


def _draw(figure: Any, density: Density, timeline: Timeline, about: About) -> Any:
    summaries = summarise(timeline, len(about.labels))
    drawn = sorted(sorted(range(len(summaries)), key=lambda label: -summaries[label].seconds)[:MOST_CLASSES])
    colours = dict(zip(drawn, COLOURS[: len(drawn)], strict=True))

    figure.suptitle(f"{printable(about.name)} · {length_of_time(density.edges[-1])}")
    over_time, totals = figure.subfigures(2, 1, height_ratios=(2, 1.2))
    hypnogram, probabilities = over_time.subplots(2, 1)
    _draw_hypnogram(hypnogram, timeline, about, colours)
    (_draw_curves if about.multi_label else _draw_hypnodensity)(probabilities, density, about, colours)
    for axes in (hypnogram, probabilities):
        for gap in timeline.gaps:
            axes.axvspan(gap.start, gap.end, color=_GAP_COLOUR, linewidth=0)
        axes.set_xlim(0, density.edges[-1])
        _label_time(axes, density.edges[-1], about)
    if about.multi_label:
        times = totals.subplots()
    else:
        matrix, times = totals.subplots(1, 2, width_ratios=(1, 1.6))
        _draw_transitions(matrix, transitions(timeline, len(about.labels))[np.ix_(drawn, drawn)], about, drawn)
    _draw_times(times, summaries, about, colours)
    for axes in (hypnogram, probabilities, times):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_hypnogram(axes: Any, timeline: Timeline, about: About, colours: dict[int, str]) -> None:
    heights = {label: -position for position, label in enumerate(colours)}
    shown = [(bout, bout.label) for bout in timeline.bouts if bout.label is not None and bout.label in heights]
    axes.hlines(
        [heights[label] for _, label in shown],
        [bout.start for bout, _ in shown],
        [bout.end for bout, _ in shown],
        [colours[label] for _, label in shown],
        linewidth=5,
    )
    steps = [
        (one.end, heights[label], heights[next_label])
        for (one, label), (following, next_label) in itertools.pairwise(shown)
        if one.end == following.start and not about.multi_label
    ]
    if steps:
        axes.vlines(*zip(*steps, strict=True), color="0.4", linewidth=0.7)
    axes.set_yticks(list(heights.values()), [_short(about.labels[label], 24) for label in heights])
    axes.set_ylim(0.5 - len(heights), 0.5)
    axes.set_title("smoothed label (grey: unscored)", loc="left", fontsize="medium")


def _draw_hypnodensity(axes: Any, density: Density, about: About, colours: dict[int, str]) -> None:
    base = np.zeros(COLUMNS)
    for label, colour in colours.items():
        top = base + density.probabilities[:, label]
        axes.stairs(top, density.edges, baseline=base, fill=True, color=colour)
        base = top
    if is_rest := len(colours) < len(about.labels):
        axes.stairs(np.where(np.isnan(base), base, 1.0), density.edges, baseline=base, fill=True, color="0.9")
    axes.set_ylim(0, 1)
    note = "; all others in light grey" if is_rest else ""
    axes.set_title(f"probability of each class (colours as above{note})", loc="left", fontsize="medium")


def _draw_curves(axes: Any, density: Density, about: About, colours: dict[int, str]) -> None:
    for label, colour in colours.items():
        axes.stairs(density.probabilities[:, label], density.edges, baseline=None, color=colour)
    axes.axhline(THRESHOLD, color="0.4", linewidth=0.7, linestyle="--")
    axes.set_ylim(-0.02, 1.02)
    note = "; others are not drawn" if len(colours) < len(about.labels) else ""
    axes.set_title(f"probability of each class (colours as above{note})", loc="left", fontsize="medium")


def _draw_transitions(axes: Any, counts: np.ndarray, about: About, labels: Sequence[int]) -> None:
    axes.imshow(counts, cmap="Blues", vmin=0, vmax=max(counts.max(), 1))
    for row, column in np.ndindex(counts.shape):
        if row != column:
            colour = "white" if counts[row, column] > 0.6 * counts.max() else "0.2"
            axes.text(column, row, counts[row, column], ha="center", va="center", color=colour)
    names = [_short(about.labels[label], 22) for label in labels]
    axes.set_xticks(range(len(labels)), names, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(labels)), names)
    axes.set_title("transitions, from (row) to (column)", loc="left", fontsize="medium")


def _draw_times(axes: Any, summaries: Sequence[ClassSummary], about: About, colours: dict[int, str]) -> None:
    minutes = [summaries[label].seconds / 60 for label in colours]
    axes.barh(range(len(colours)), minutes, color=list(colours.values()))
    for position, label in enumerate(colours):
        summary = summaries[label]
        text = f" {summary.share:.0%}, {summary.num_bouts} bout{'s' * (summary.num_bouts != 1)}"
        axes.text(minutes[position], position, text, va="center")
    axes.margins(x=0.25)
    axes.set_yticks(range(len(colours)), [_short(about.labels[label], 22) for label in colours])
    axes.invert_yaxis()
    axes.set_xlabel("minutes")
    axes.set_title("time per class", loc="left", fontsize="medium")


def render(figure: Any) -> bytes:
    """Returns a figure of `draw` as PNG."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # of names in letters that its fonts lack
        figure.savefig(file, format="png", dpi=110)
    return file.getvalue()


def write_png(path: Path, picture: bytes) -> None:
    """Writes what `render` returned."""
    with replacing(path) as temporary:
        temporary.write_bytes(picture)


def write_html(path: Path, picture: bytes, timeline: Timeline, about: About, notes: dict[str, str]) -> None:
    """Writes one page that needs nothing else: the picture, what went wrong, then tables, and the settings last.

    Args:
        picture: What `render` returned.
        notes: What else there is to say about how the results came about, by its name.
    """
    summaries = summarise(timeline, len(about.labels))
    seen = [label for label, summary in enumerate(summaries) if summary.num_bouts]
    per_class = [
        (
            about.labels[label],
            length_of_time(summaries[label].seconds),
            f"{summaries[label].share:.1%}",
            str(summaries[label].num_bouts),
            length_of_time(summaries[label].mean_bout),
            length_of_time(summaries[label].longest_bout),
        )
        for label in seen
    ]
    files = [
        (span.file, about.when(span.start), length_of_time(span.end - span.start), span.source) for span in about.files
    ]
    about_rows = {"source": about.source, "results": about.meaning, **notes}
    sections = [
        f"<h1>{_escaped(about.name)}</h1>",
        f"<p>{_escaped(_summary(timeline, about))}</p>",
        f'<img alt="hypnogram, probabilities, transitions and time per class" src="data:image/png;base64,'
        f'{base64.b64encode(picture).decode()}">',
        "<h2>What went wrong</h2>",
        *_what_went_wrong(timeline, about),
        "<h2>Time per class</h2>",
        _table(("class", "time", "share of what is scored", "bouts", "mean bout", "longest bout"), per_class),
        *_transitions(timeline, about, seen),
        *(["<h2>Files</h2>", _table(("file", "begins", "lasts", "known from"), files)] if files else []),
        "<h2>How this was made</h2>",
        _table((), list(about_rows.items())),
    ]
    page = f"""<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{_escaped(about.name)}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
img {{ width: 100%; height: auto }}
.table {{ overflow-x: auto; margin: 1rem 0 }}
table {{ border-collapse: collapse }}
th, td {{ text-align: left; padding: 0.2rem 1rem 0.2rem 0; border-bottom: 1px solid #ddd; vertical-align: top }}
td {{ overflow-wrap: anywhere; min-width: 4rem }}
@media (max-width: 40rem) {{
  body {{ margin: 1rem auto; font-size: 14px }}
  h1 {{ font-size: 1.3rem; overflow-wrap: anywhere }}
  h2 {{ font-size: 1.1rem }}
  table {{ font-size: 11px }}
  th, td {{ padding-right: 0.4rem }}
  td {{ min-width: 2.9rem }}
}}
</style>
{chr(10).join(sections)}
</html>
"""
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _summary(timeline: Timeline, about: About) -> str:
    begins = "" if about.started is None else f"Begins {about.started.isoformat(' ', 'seconds')}. "
    return f"{begins}{length_of_time(timeline.duration)}, of which {length_of_time(timeline.scored)} scored."


def _transitions(timeline: Timeline, about: About, seen: Sequence[int]) -> list[str]:
    """Returns a table of how often one class follows on another, or a sentence why there is none."""
    if about.multi_label:
        return [
            "<p>Several classes can be there at once: their shares may sum to more than 100 %, and there are no "
            "transitions from one to another.</p>"
        ]
    counts = transitions(timeline, len(about.labels))
    from_to = [(about.labels[row], *(str(counts[row, column]) for column in seen)) for row in seen]
    return ["<h2>Transitions</h2>", _table(("from \\ to", *(about.labels[label] for label in seen)), from_to)]


def _what_went_wrong(timeline: Timeline, about: About) -> list[str]:
    """Returns tables of what is wrong with the files and of what is not scored, or a sentence in their place."""
    problems = [(about.when(problem.at), problem.file, problem.what) for problem in about.problems]
    gaps = [(about.when(gap.start), length_of_time(gap.duration)) for gap in timeline.gaps]
    if not problems and not gaps:
        return ["<p>Nothing: every file was read to its end, and every stretch is scored.</p>"]
    return [
        *([_table(("at", "file", "what"), problems)] if problems else []),
        *(
            [_table(("unscored from", "for"), gaps)]
            if gaps
            else ["<p>Every stretch of what could be read is scored.</p>"]
        ),
    ]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{_escaped(cell)}</{tag}>" for cell in cells) + "</tr>"

    lines = [line(header, "th")] if header else []
    table = "\n".join(["<table>", *lines, *(line(row, "td") for row in rows), "</table>"])
    return f'<div class="table">{table}</div>'


def _escaped(text: str) -> str:
    return html.escape(printable(text))


def _label_time(axes: Any, duration: float, about: About) -> None:
    """Puts ticks at round times of day, or of the recording, at most about ten of them."""
    steps = [1, 2, 5, 10, 30, *(60 * minutes for minutes in (1, 2, 5, 10, 20, 30, 60, 120, 240, 360, 720, 1440))]
    days = 86_400 * math.ceil(duration / (12 * 86_400))
    step = next((step for step in steps if duration / step <= 12), days)
    offset = 0.0
    if about.started is not None:
        midnight = about.started.replace(hour=0, minute=0, second=0, microsecond=0)
        offset = seconds_after(midnight, about.started)
    ticks = np.arange(-(-offset // step) * step, offset + duration + 1e-6, step) - offset
    axes.set_xticks(ticks, [about.clock(tick + 1e-3) if step < 60 else about.clock(tick + 1e-3)[:-3] for tick in ticks])
    axes.set_xlabel("time of day" if about.started else "hours:minutes" + (":seconds" if step < 60 else ""))


def _short(text: str, length: int) -> str:
    text = printable(text)
    return text if len(text) <= length else text[: length - 1] + "…"
