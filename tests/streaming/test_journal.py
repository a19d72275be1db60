"""What is on disk while results come: kept, dropped after a kill, refused when it does not fit."""

import math
import subprocess
import sys

import numpy as np
import pytest

from videoswin_keras.streaming.about import CUT_OFF, OVERLAP, FileSpan, Problem
from videoswin_keras.streaming.journal import Journal
from videoswin_keras.streaming.timeline import Result

SETTINGS = {"fps": 4.0, "labels": ("a", "b")}
RESULTS = [Result(index, index + 1, (1 / 3, 2 / 3)) for index in range(6)]


def test_what_was_appended_after_the_last_save_is_dropped(tmp_path):
    journal = Journal.open(tmp_path / "night", SETTINGS, resume=False)
    assert journal.state is None
    journal.append(RESULTS[:3])
    journal.save({"position": np.array([7, 3])})
    journal.append([*RESULTS[3:5], Result(5, 6, None)])
    assert list(journal.results()) == [*RESULTS[:5], Result(5, 6, None)]
    again = Journal.open(tmp_path / "night", SETTINGS, resume=True)
    assert list(again.results()) == RESULTS[:3]
    np.testing.assert_array_equal(again.state["position"], [7, 3])
    again.append(RESULTS[3:])
    assert list(again.results()) == RESULTS


def test_before_anything_is_kept_it_begins_anew(tmp_path):
    Journal.open(tmp_path, SETTINGS, resume=False)
    again = Journal.open(tmp_path, SETTINGS, resume=True)
    assert again.state is None
    assert list(again.results()) == []


def test_finished(tmp_path):
    journal = Journal.open(tmp_path, SETTINGS, resume=True)  # with nothing there it begins
    journal.append(RESULTS)
    journal.save({})

    def fails():
        raise RuntimeError("killed while writing")

    with pytest.raises(RuntimeError):
        journal.finish(fails, {})
    (tmp_path / ".part-1-report.png").write_bytes(b"half")
    again = Journal.open(tmp_path, SETTINGS, resume=True)
    assert list(again.results()) == RESULTS
    again.finish((tmp_path / "report.png").touch, {"seconds": 6.0})
    assert sorted(path.name for path in tmp_path.iterdir() if path.name[0] != ".") == ["report.png", "settings.json"]
    finished = Journal.open(tmp_path, SETTINGS, resume=True)
    assert finished.is_finished
    assert finished.kept["outcome"] == {"seconds": 6.0, "written": ["report.png"]}
    with pytest.raises(FileExistsError, match="holds results already"):
        Journal.open(tmp_path, SETTINGS, resume=False)


def test_what_grew_is_taken_up_again(tmp_path):
    """What was found out about a file that has grown since counts no more."""
    begun = [FileSpan("a.ts", 0.0, 3.0, 3.0, "x"), FileSpan("b.ts", 3.0, math.inf, math.inf, "x")]
    begun += [Problem("b.ts", OVERLAP, "x", 3.0)]
    found = [*begun, FileSpan("b.ts", 3.0, 6.0, 6.0, "x"), Problem("b.ts", CUT_OFF, "x", 6.0)]
    journal = Journal.open(tmp_path, SETTINGS, resume=False)
    journal.append([*RESULTS[:3], *found])
    journal.save({"position": np.array([7, 3])})
    journal.append(RESULTS[3:])  # what was left at the end
    journal.finish(lambda: None, {})
    again = Journal.open(tmp_path, SETTINGS, resume=True)
    assert again.events() == found
    again.reopen({"files": [{"file": "b.ts", "start": None, "bytes": 9, "sha256": ""}]}, ["b.ts"])
    for journal in (again, Journal.open(tmp_path, SETTINGS, resume=True)):
        assert not journal.is_finished
        assert journal.events() == begun
        assert list(journal.results()) == RESULTS[:3]


def test_other_settings_are_refused(tmp_path):
    Journal.open(tmp_path, SETTINGS, resume=False).append(RESULTS)
    with pytest.raises(ValueError, match=r"other settings:\n  fps: 4.0 there, 2.0 now\n  stride: None there, 8 now\n"):
        Journal.open(tmp_path, {**SETTINGS, "fps": 2.0, "stride": 8}, resume=True)


def saved(folder, settings=SETTINGS, results=RESULTS):
    journal = Journal.open(folder, settings, resume=False)
    journal.append(results)
    journal.save({"position": np.arange(1000)})
    return journal


@pytest.mark.parametrize("name", ["settings.json", ".state.npz", ".journal.jsonl"])
def test_no_changed_byte_changes_what_is_read(tmp_path, name):
    """Of the settings only in what the results are chained to: the others are compared with those of this run."""
    saved(tmp_path)
    content = (tmp_path / name).read_bytes()
    refused = accepted = 0
    first = content.index(b'"chain"') if name == "settings.json" else 0
    for place in range(first, len(content), 1 + len(content) // 60):
        (tmp_path / name).write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            journal = Journal.open(tmp_path, SETTINGS, resume=True)
        except ValueError:
            refused += 1
        else:  # a byte of the archive that says nothing, such as the time of day
            assert list(journal.results()) == RESULTS
            np.testing.assert_array_equal(journal.state["position"], np.arange(1000))
            accepted += 1
    assert refused > 20
    assert accepted == 0 or name == ".state.npz"
    (tmp_path / name).write_bytes(content)
    assert list(Journal.open(tmp_path, SETTINGS, resume=True).results()) == RESULTS


@pytest.mark.parametrize("name", [".state.npz", ".journal.jsonl"])
def test_rejects_what_was_cut_short_or_taken_away(tmp_path, name):
    saved(tmp_path)
    content = (tmp_path / name).read_bytes()
    for length in (0, 1, len(content) // 2, len(content) - 1):
        (tmp_path / name).write_bytes(content[:length])
        with pytest.raises(ValueError, match="is damaged"):
            Journal.open(tmp_path, SETTINGS, resume=True)
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=r"its (journal|state) .* is missing"):
        Journal.open(tmp_path, SETTINGS, resume=True)


def test_rejects_swapped_lines(tmp_path):
    saved(tmp_path)
    lines = (tmp_path / ".journal.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / ".journal.jsonl").write_bytes(b"".join([lines[0], lines[2], lines[1], *lines[3:]]))
    with pytest.raises(ValueError, match="line 2 of its journal has been changed"):
        Journal.open(tmp_path, SETTINGS, resume=True)


@pytest.mark.parametrize("names", [[".state.npz"], [".journal.jsonl"], [".state.npz", ".journal.jsonl"]])
def test_rejects_journal_and_state_of_another_recording(tmp_path, names):
    saved(tmp_path / "a")
    saved(tmp_path / "b", {**SETTINGS, "source": "b.mp4"}, [Result(r.start, r.end, (0.5, 0.5)) for r in RESULTS])
    for name in names:
        (tmp_path / "a" / name).write_bytes((tmp_path / "b" / name).read_bytes())
    with pytest.raises(ValueError, match="is damaged"):
        Journal.open(tmp_path / "a", SETTINGS, resume=True)


def test_settings_taken_away_begin_anew(tmp_path):
    journal = Journal.open(tmp_path, SETTINGS, resume=False)
    journal.append(RESULTS)
    journal.save({})
    (tmp_path / "settings.json").unlink()
    assert Journal.open(tmp_path, SETTINGS, resume=True).state is None
    assert Journal.open(tmp_path, SETTINGS, resume=True).state is None


def test_two_processes_at_one_folder(tmp_path):
    journal = Journal.open(tmp_path, SETTINGS, resume=False)
    journal.append(RESULTS)
    code = f"""
from videoswin_keras.streaming.journal import Journal
Journal.open({str(tmp_path)!r}, {SETTINGS}, resume=True)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"BlockingIOError: {tmp_path} is in use" in result.stderr
    assert list(journal.results()) == RESULTS


def test_discarding(tmp_path):
    journal = Journal.open(tmp_path / "new", SETTINGS, resume=False)
    journal.discard()
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_of_other_things_is_left_alone(tmp_path, resume):
    (tmp_path / "results.csv").touch()
    with pytest.raises(FileExistsError, match=r"other files: results.csv"):
        Journal.open(tmp_path, SETTINGS, resume)
    assert [path.name for path in tmp_path.iterdir()] == ["results.csv"]


def test_several_classes_at_once(tmp_path):
    """Said in the settings; those of runs from before there were such models do not say it."""
    for name, settings in (("old", SETTINGS), ("new", {**SETTINGS, "multi_label": True})):
        saved(tmp_path / name, settings)
        results = list(Journal.open(tmp_path / name, settings, resume=True).results())
        assert {result.multi_label for result in results} == {name == "new"}
    with pytest.raises(ValueError, match="multi_label: None there, True now"):
        Journal.open(tmp_path / "old", {**SETTINGS, "multi_label": True}, resume=True)
