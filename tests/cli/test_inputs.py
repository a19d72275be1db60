"""What a folder is searched for, and in which order."""

from pathlib import Path

import av
import numpy as np
import pytest

from videoswin_keras.cli.inputs import find_videos, natural
from videoswin_keras.video.encode import write_video


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "source" / "video.mp4"
    path.parent.mkdir()
    write_video(path, np.full((3, 32, 32, 3), 128, "uint8"))
    return path.read_bytes()


def found(folder):
    videos, _ = find_videos([str(folder)])
    return [path.name for path in videos]


SUFFIXES = """
    264 265 3g2 3gp asf avi dav divx f4v flv h264 hevc m2t m2ts m4v mjpeg mkv mod mov mp4 mts mxf tod ts vob webm wmv
"""


@pytest.mark.parametrize("suffix", SUFFIXES.split())
def test_known_suffixes_are_found(suffix, tmp_path):
    for name in (f"a.{suffix}", f"B.{suffix.upper()}"):
        (tmp_path / name).touch()
    assert sorted(found(tmp_path)) == sorted([f"a.{suffix}", f"B.{suffix.upper()}"])


def test_other_files_are_told_by_their_content(video, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("camera.strange", "no suffix", "0001.dat"):
        (folder / name).write_bytes(video)
    for name in ("model.h5", "picture.jpg", "table.csv", "archive.zip", "packed.mp4.gz", "sound.wav", "small.LRV"):
        (folder / name).write_bytes(video)  # by their names they are none: they are not opened
    (folder / ".hidden.mp4").write_bytes(video)
    (folder / "text").write_text("not a video\n" * 50)
    (folder / "noise.strange").write_bytes(np.random.default_rng(0).bytes(50_000))
    (folder / "empty.strange").touch()
    (folder / "folder.strange").mkdir()
    picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), "uint8"), format="rgb24")
    with av.open(str(folder / "picture"), "w", format="image2", options={"update": "1"}) as output:
        stream = output.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "rgb24"
        output.mux(stream.encode(picture))
    assert found(folder) == ["0001.dat", "camera.strange", "no suffix"]


def test_a_folder_without_videos(tmp_path):
    (tmp_path / "text").write_text("no video")
    with pytest.raises(FileNotFoundError, match="no video files in the folder"):
        found(tmp_path)


def test_chapters_follow_their_recording():
    right = ["GH010041.MP4", "GH010042.MP4", "GH020042.MP4", "GH030042.MP4", "GH010043.MP4", "GH020043.MP4"]
    right += ["GOPR0042.MP4", "GP010042.MP4", "GP020042.MP4", "GOPR0043.MP4", "GX010042.MP4", "GX020042.MP4"]
    right += ["clip2.mp4", "clip10.mp4"]
    files = [Path("day 1") / name for name in right]
    by_letters = sorted(files)
    assert by_letters != files
    assert sorted(by_letters, key=natural) == files


def test_folders_of_the_system_are_not_looked_into_and_those_like_videos_are(tmp_path):
    for name in ("lost+found", ".Trashes", "cam.mp4", "empty.mp4"):
        (tmp_path / name).mkdir()
        if name != "empty.mp4":
            (tmp_path / name / "a.mp4").touch()
    videos, passed_over = find_videos([str(tmp_path)])
    assert videos == [tmp_path / "cam.mp4" / "a.mp4"]
    assert [path.name for path, _ in passed_over] == ["empty.mp4"]
