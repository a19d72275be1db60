"""Recordings of models with several classes at once, and with one output, from the command line to the files."""

import functools
import itertools
import json

import mne
import numpy as np
import pandas
import pytest
import scipy.stats
import webvtt
from test_camera import Script

from videoswin_keras import VideoSwinT
from videoswin_keras.cli.main import main
from videoswin_keras.streaming.camera import Camera
from videoswin_keras.streaming.run import Run
from videoswin_keras.video import protocols
from videoswin_keras.video.encode import write_video

LABELS = ("lying", "eating", "at the wall")


def save_model(path, bias, **kwargs):
    """One that says the same of every clip: the logits are the bias."""
    model = VideoSwinT(
        (8, 32, 32, 3),
        num_classes=len(bias),
        embed_dim=8,
        depths=(1, 1),
        num_heads=(1, 2),
        include_rescaling=True,
        protocol=protocols.get("kinetics", clip_frames=8, crop=32, short_side_single=32),
        **kwargs,
    )
    model.get_layer("head").set_weights([np.zeros((16, len(bias))), np.array(bias)])
    model.save(path)


@pytest.fixture
def barn(tmp_path):
    """Ten seconds, ten that are missing, and ten more; and the command to stream them."""
    folder = tmp_path / "barn"
    folder.mkdir()
    for second in (0, 20):
        pictures = np.random.default_rng(second).integers(0, 256, (80, 32, 48, 3), "uint8")
        write_video(folder / f"20261120_2130{second:02}.mp4", pictures, rate=8)
    weights = ["--weights", str(tmp_path / "model.keras"), "--fps", "8", "--stride", "4", "--zone", "UTC"]
    return ["stream", str(folder), "--join", *weights, "--save-every", "1e-9", "--out"]


def rows_of(path):
    table = pandas.read_csv(path, skiprows=1)
    return list(zip(table.start_s, table.end_s, table.label, strict=True))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("**/[!.]*") if path.is_file()}


def test_several_classes_at_once(barn, tmp_path, capsys, monkeypatch):
    """Two seconds are held after the first file; after the gap the first whole clip ends at 21 s."""
    save_model(tmp_path / "model.keras", (3.0, -3.0, 0.1), multi_label=True, labels=LABELS)
    assert main([*barn, str(tmp_path / "whole")]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("barn: 30 s")
    assert sorted(line.strip() for line in printed[1:]) == [
        "100.00 % of what is scored  at the wall",
        "100.00 % of what is scored  lying",
        "8.5 s of it unscored",
    ]
    out = tmp_path / "whole" / "barn"
    expected = [(0, 12, "lying"), (0, 12, "at the wall"), (12, 20.5, "unscored")]
    expected += [(20.5, 30, "lying"), (20.5, 30, "at the wall")]
    assert rows_of(out / "bouts.csv") == expected
    annotations = mne.read_annotations(out / "annotations.edf")
    found = zip(annotations.onset, annotations.onset + annotations.duration, annotations.description, strict=True)
    assert sorted(found) == sorted(expected)
    captions = webvtt.read(out / "labels" / "20261120_213020.vtt").captions
    times = "00:00:00.500", "00:00:10.000"
    assert [(c.start, c.end, c.text) for c in captions[-2:]] == [(*times, "lying"), (*times, "at the wall")]
    boris = pandas.read_csv(out / "boris.csv")
    assert list(boris["Behavior"]) == ["lying", "at the wall"] * 2
    table = pandas.read_csv(out / "results.csv", skiprows=1)
    assert set(table.label) == set(table.smoothed_label) == {"lying + at the wall", "unscored"}
    p = 1 / (1 + np.exp([-3.0, 3.0, -0.1]))
    scored = table[table.label != "unscored"]
    np.testing.assert_allclose(scored[[f"p({label})" for label in LABELS]], np.tile(p, (len(scored), 1)), atol=1e-5)
    np.testing.assert_allclose(scored.uncertainty, scipy.stats.entropy([p, 1 - p], base=2).mean(), atol=1e-4)
    _, *lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert lines[0]["smoothed_label"] == ["lying", "at the wall"]
    assert "may sum to more than 100 %" in (out / "report.html").read_text(encoding="utf-8")

    results = Run.results

    def interrupted(self):
        yield from itertools.islice(results(self), 15)
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "results", interrupted)
    assert main([*barn, str(tmp_path / "stopped")]) == 130
    monkeypatch.undo()
    assert main([*barn, str(tmp_path / "stopped"), "--resume"]) == 0
    assert "barn: goes on at " in capsys.readouterr().err
    assert contents(tmp_path / "stopped" / "barn") == contents(out)


def test_none_of_several_classes(barn, tmp_path, capsys):
    """The recording is as long as it is, though there is no bout at all after the gap."""
    save_model(tmp_path / "model.keras", (-3.0, -0.1), multi_label=True, labels=LABELS[:2])
    assert main([*barn, str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("barn: 30 s")
    out = tmp_path / "out" / "barn"
    assert rows_of(out / "bouts.csv") == [(12, 20.5, "unscored")]
    assert json.loads((out / "settings.json").read_text())["outcome"]["seconds"] == 30
    assert "30 s, of which 21.5 s scored." in (out / "report.html").read_text(encoding="utf-8")
    save_model(tmp_path / "model.keras", (-3.0, -0.1), multi_label=True, labels=("lying", "none"))
    assert main([*barn, str(tmp_path / "refused")]) in {1, 2}
    assert "No class may be called 'none'" in capsys.readouterr().err
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize(
    ("bias", "what"),
    [((3.0, -3.0, 0.1), "lying   95% + at the wall   52%  ("), ((-3.0, -3.0, -3.0), "none   (")],
)
def test_a_camera_shows_several_classes_at_once(bias, what, tmp_path, monkeypatch, capsys):
    save_model(tmp_path / "model.keras", bias, multi_label=True, labels=LABELS)
    script = Script(range(40), step=0.125)
    arguments = {"read": script.read, "clock": lambda: script.now, "wait": lambda seconds: True, "queue_size": 1000}
    monkeypatch.setattr(Camera, "__init__", functools.partialmethod(Camera.__init__, **arguments))
    command = ["stream", "camera:0", "--weights", str(tmp_path / "model.keras"), "--fps", "8", "--stride", "4"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    assert what in capsys.readouterr().out.splitlines()[0]


@pytest.mark.parametrize(("bias", "name"), [(2.0, "lying"), (-2.0, "not lying")])
def test_a_single_output(bias, name, barn, tmp_path):
    """It is there, or not: one of two classes."""
    save_model(tmp_path / "model.keras", (bias,), labels=["lying"])
    assert main([*barn, str(tmp_path / "out")]) == 0
    out = tmp_path / "out" / "barn"
    assert rows_of(out / "bouts.csv") == [(0, 12, name), (12, 20.5, "unscored"), (20.5, 30, name)]
    table = pandas.read_csv(out / "results.csv", skiprows=1)
    assert set(table.smoothed_label) == {name, "unscored"}
    p = 1 / (1 + np.exp(-bias))
    np.testing.assert_allclose(table[["p(not lying)", "p(lying)"]].dropna(), np.tile((1 - p, p), (42, 1)), atol=1e-5)
    assert "multi_label" not in json.loads((out / "settings.json").read_text())
