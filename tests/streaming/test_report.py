"""What the report draws and writes, read off the figure and the page."""

import base64
import html.parser
from datetime import UTC, datetime

import cv2
import numpy as np
import pytest

from videoswin_keras.streaming import report
from videoswin_keras.streaming.about import About, length_of_time
from videoswin_keras.streaming.timeline import Bout, Result, Timeline, timeline_of

LABELS = ("standing <up>", "lying & awake", "asleep, $5$ $^$")


def recording(count=500, num_classes=3, seed=0):
    """Two-second results in bouts of random length, and a gap."""
    rng = np.random.default_rng(seed)
    results, label = [], 0
    for index in range(count):
        if rng.random() < 0.1:
            label = int(rng.integers(num_classes))
        row = rng.dirichlet(np.where(np.arange(num_classes) == label, 20.0, 1.0))
        p = None if 100 <= index < 120 else tuple(row.tolist())
        results.append(Result(2.0 * index, 2.0 * index + 2, p, p))
    return results, timeline_of(results)


def about(labels=LABELS, started=None):
    return About("night", labels, "night.mp4", 4.0, started=started)


@pytest.mark.parametrize("count", [1, 500, 4000])
def test_density_is_the_mean_of_the_results_there(count):
    """Against looking up, for each column, the results that touch it; shorter and longer than the columns."""
    results, _ = recording(count)
    density = report.Density(results, 2.0 * count, 3)
    for column in range(0, report.COLUMNS, 97):
        left, right = density.edges[column : column + 2]
        there = [result for result in results if result.start < right - 1e-9 and result.end > left + 1e-9]
        if any(result.probabilities is None for result in there):
            assert np.isnan(density.probabilities[column]).all()
        else:
            expected = np.mean([result.probabilities for result in there], axis=0)
            np.testing.assert_allclose(density.probabilities[column], expected)


def test_figure():
    results, timeline = recording()
    figure = report.draw(
        report.Density(results, 1000.0, 3), timeline, about(started=datetime(2026, 11, 20, 23, 50, tzinfo=UTC))
    )
    hypnogram, hypnodensity, matrix, times = (axes for part in figure.subfigs for axes in part.axes)
    assert [text.get_text() for text in hypnogram.get_yticklabels()] == list(LABELS)
    drawn = hypnogram.collections[0].get_segments()
    expected = [(bout.start, bout.end, -bout.label) for bout in timeline.bouts if bout.label is not None]
    np.testing.assert_allclose([(line[0][0], line[1][0], line[0][1]) for line in drawn], expected)
    ticks = [text.get_text() for text in hypnogram.get_xticklabels()]
    assert ticks[:2] == ["23:50", "23:52"]
    assert "00:00" in ticks
    (gap,) = timeline.gaps
    for axes in (hypnogram, hypnodensity):
        spans = [patch for patch in axes.patches if getattr(patch, "get_width", float)() == gap.duration]
        assert [span.get_x() for span in spans] == [gap.start]
    counts = sum(int(text.get_text()) for text in matrix.texts)
    assert counts == len(timeline.bouts) - 1 - 2  # none across the gap
    seconds = [60 * bar.get_width() for bar in times.patches]
    np.testing.assert_allclose(sum(seconds), 960)


def test_many_classes():
    """Those with the most time are drawn; the rest is grey."""
    results, timeline = recording(num_classes=400)
    labels = tuple(f"class {index}" for index in range(400))
    figure = report.draw(report.Density(results, 1000.0, 400), timeline, about(labels))
    hypnogram = figure.subfigs[0].axes[0]
    assert len(hypnogram.get_yticklabels()) == report.MOST_CLASSES
    assert "all others in light grey" in figure.subfigs[0].axes[1].get_title(loc="left")


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.cells, self.links = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.links += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        if data.strip():
            self.cells.append(data)


def test_page(tmp_path):
    results, timeline = recording()
    picture = report.render(report.draw(report.Density(results, 1000.0, 3), timeline, about()))
    report.write_png(tmp_path / "report.png", picture)
    assert cv2.imread(str(tmp_path / "report.png")).shape[0] > 800
    report.write_html(tmp_path / "report.html", picture, timeline, about(), {"weights": "sows.keras"})
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    (link,) = page.links  # the picture, within the page: nothing is fetched
    assert link == "data:image/png;base64," + base64.b64encode((tmp_path / "report.png").read_bytes()).decode()
    for cell in (*LABELS, "sows.keras", "16 min 40 s, of which 16 min 00 s scored.", "0:03:20", "40 s"):
        assert cell in page.cells, cell


def test_pictures_do_not_change_from_run_to_run():
    pictures = []
    for _ in range(2):
        results, timeline = recording()
        pictures.append(report.render(report.draw(report.Density(results, 1000.0, 3), timeline, about())))
    assert pictures[0] == pictures[1]


def test_names_in_letters_that_its_fonts_lack(recwarn):
    named = About("日本", ("眠", "b", "c"), "night.mp4", 4.0)
    assert report.render(report.draw(report.Density([], 4.0, 3), Timeline([Bout(0.0, 4.0, 0)], 4.0), named))
    assert not recwarn.list


def test_everything_unscored(tmp_path):
    results = [Result(0.0, 2.0, None), Result(2.0, 4.0, None)]
    timeline = timeline_of(results)
    picture = report.render(report.draw(report.Density(results, 4.0, 3), timeline, about()))
    report.write_html(tmp_path / "report.html", picture, timeline, about(), {})
    cells = Page((tmp_path / "report.html").read_text(encoding="utf-8")).cells
    assert "4 s, of which 0 s scored." in cells
    gap = cells.index("unscored from") + 2
    assert cells[gap : gap + 2] == ["0:00:00", "4 s"]  # the one gap


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(7.5, "7.5 s"), (59.9999, "60 s"), (200, "3 min 20 s"), (3599.7, "1 h 00 min"), (36065, "10 h 01 min")],
)
def test_length_of_time(seconds, text):
    assert length_of_time(seconds) == text


def test_several_classes_at_once(tmp_path):
    """Bouts that overlap, a curve of each class, and shares that sum to 150 %; a second of no class, and a gap."""
    rows = [(0.9, 0.8, 0.1), (0.9, 0.8, 0.1), (0.7, 0.2, 0.1), (0.1, 0.2, 0.3), None]
    results = [Result(index, index + 1, row, row, multi_label=True) for index, row in enumerate(rows)]
    timeline = timeline_of(results)
    several = About("night", LABELS, "night.mp4", 4.0, multi_label=True)
    figure = report.draw(report.Density(results, 5.0, 3), timeline, several)
    hypnogram, curves, times = (axes for part in figure.subfigs for axes in part.axes)
    (lines,) = hypnogram.collections  # the bouts, and no steps between them
    drawn = [(line[0][0], line[1][0], line[0][1]) for line in lines.get_segments()]
    assert drawn == [(0.0, 3.0, 0), (0.0, 2.0, -1)]
    steps = [patch.get_data() for patch in curves.patches if hasattr(patch, "get_data")]
    for label, step in enumerate(steps):
        assert step.baseline is None
        middles = np.searchsorted(step.edges, [0.5, 1.5, 2.5, 3.5, 4.5]) - 1
        np.testing.assert_allclose(step.values[middles], [row[label] if row else np.nan for row in rows])
    assert len(steps) == 3
    assert [text.get_text() for text in times.texts] == [" 75%, 1 bout", " 50%, 1 bout", " 0%, 0 bouts"]
    report.write_html(tmp_path / "report.html", report.render(figure), timeline, several, {})
    cells = Page((tmp_path / "report.html").read_text(encoding="utf-8")).cells
    for cell in ("5 s, of which 4 s scored.", "75.0%", "50.0%"):
        assert cell in cells
    assert "Transitions" not in cells
