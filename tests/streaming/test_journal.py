"""What is on disk while results come: kept, dropped after a kill, refused when it does not fit."""

import subprocess
import sys

import numpy as np
import pytest

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


def test_before_the_first_save_it_begins_anew(tmp_path):
    Journal.open(tmp_path, SETTINGS, resume=False).append(RESULTS)
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
        journal.finish(fails)
    (tmp_path / ".part-1-report.png").write_bytes(b"half")
    again = Journal.open(tmp_path, SETTINGS, resume=True)
    assert list(again.results()) == RESULTS
    again.finish((tmp_path / "report.png").touch)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.png", "settings.json"]
    assert Journal.open(tmp_path, SETTINGS, resume=True).is_finished
    with pytest.raises(FileExistsError, match="holds results already"):
        Journal.open(tmp_path, SETTINGS, resume=False)


def test_other_settings_are_refused(tmp_path):
    Journal.open(tmp_path, SETTINGS, resume=False).append(RESULTS)
    with pytest.raises(ValueError, match=r"other settings:\n  fps: 4.0 there, 2.0 now\n  stride: None there, 8 now\n"):
        Journal.open(tmp_path, {**SETTINGS, "fps": 2.0, "stride": 8}, resume=True)


@pytest.mark.parametrize("name", ["settings.json", ".state.npz", ".journal.jsonl"])
def test_damage_is_said(tmp_path, name):
    journal = Journal.open(tmp_path, SETTINGS, resume=False)
    journal.append(RESULTS)
    journal.save({"position": np.zeros(2)})
    (tmp_path / name).write_bytes(b"{")
    with pytest.raises(ValueError, match="Remove"):
        Journal.open(tmp_path, SETTINGS, resume=True)


@pytest.mark.parametrize("state", [{}, {"journal_bytes": np.array(-3)}, {"journal_bytes": np.array("x")}])
def test_a_state_that_nobody_saved(tmp_path, state):
    Journal.open(tmp_path, SETTINGS, resume=False).append(RESULTS)
    np.savez(tmp_path / ".state.npz", **state)
    with pytest.raises(ValueError, match="is damaged"):
        Journal.open(tmp_path, SETTINGS, resume=True)


@pytest.mark.parametrize("line", [b"[1.0, 2.0", b"[1.0, 2.0, 3]", b'{"a": 1}', b"[1, 2]", b"\xff"])
def test_a_damaged_line(tmp_path, line):
    journal = Journal.open(tmp_path, SETTINGS, resume=False)
    journal.append(RESULTS[:1])
    with (tmp_path / ".journal.jsonl").open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(ValueError, match=r"Line 2 of .* is damaged"):
        list(journal.results())


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
