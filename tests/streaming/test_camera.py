"""Live video: a model that is too slow, outages, and a real stream over HTTP."""

import functools
import http.server
import logging
import threading

import av
import numpy as np
import pytest

from videoswin_keras.streaming.camera import Camera, is_live
from videoswin_keras.video.encode import write_video


class Script:
    """Plays the camera, the clock and the waiting: what happens is written down, and takes no time."""

    def __init__(self, *connections, step=0.04):
        self.connections, self.step = list(connections), step
        self.now, self.waits = 1000.0, []

    def read(self, source):
        if not self.connections:
            raise OSError("gone for good")
        connection = self.connections.pop(0)
        if isinstance(connection, Exception):
            raise connection
        for value in connection:
            self.now += self.step
            yield lambda value=value: np.full((2, 2, 3), value, "uint8")

    def wait(self, seconds):
        self.waits.append(seconds)
        self.now += seconds
        return not self.connections  # then the camera is closed

    def camera(self, **settings):
        return Camera(
            "camera:0", read=self.read, clock=lambda: self.now, steady=lambda: self.now, wait=self.wait, **settings
        )


def run_to_the_end(camera):
    """Lets the thread finish before anything is taken from the queue."""
    camera._run()
    camera.close()
    return [(time, int(picture[0, 0, 0])) for time, picture in camera.frames()]


def test_frames_come_with_their_time_and_thinned():
    frames = run_to_the_end(Script(range(25)).camera(fps=4))  # 25 per second: every fourth, at least 0.125 s apart
    assert [value for _, value in frames] == list(range(0, 25, 4))
    np.testing.assert_allclose([time for time, _ in frames], 1000.04 + np.arange(7) * 0.16)


def test_a_full_queue_drops_the_oldest_and_counts(caplog):
    camera = Script(range(10), step=1.0).camera(queue_size=4)
    with caplog.at_level(logging.ERROR):
        assert [value for _, value in run_to_the_end(camera)] == [6, 7, 8, 9]
    assert camera.dropped == 6


def test_reconnection_with_back_off(caplog):
    """One, two, four, … up to thirty seconds; from the start again once there was a frame."""
    script = Script(*[OSError("no route")] * 7, [1, 2], [3], step=1.0)
    camera = script.camera()
    frames = run_to_the_end(camera)
    assert [value for _, value in frames] == [1, 2, 3]
    assert script.waits == [1, 2, 4, 8, 16, 30, 30, 1, 1]
    assert camera.outages == 9
    assert "no route; next attempt in 1 s" in caplog.text
    assert frames[2][0] - frames[1][0] == 2.0  # the outage shows in the times


def test_http(tmp_path):
    """A stream over the network, that ends and is taken up again."""
    write_video(tmp_path / "live.ts", [np.full((32, 32, 3), grey, "uint8") for grey in range(0, 200, 10)], rate=10)
    data = (tmp_path / "live.ts").read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "video/mp2t")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    waits = []

    def wait(seconds):
        waits.append(seconds)
        return len(waits) == 2

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        ticks = iter(range(10**6))
        address = f"http://127.0.0.1:{server.server_address[1]}/live.ts"
        camera = Camera(address, clock=lambda: float(next(ticks)), wait=wait)
        camera._run()
        camera.close()
        greys = [int(picture.mean()) for _, picture in camera.frames()]
        server.shutdown()
    assert len(greys) == 40
    assert np.abs(np.array(greys) - np.tile(np.arange(0, 200, 10), 2)).max() <= 3


@pytest.fixture
def served(tmp_path):
    """A server of a folder with a video."""
    write_video(tmp_path / "night.mp4", [np.full((32, 32, 3), 99, "uint8")] * 20, rate=10)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_file_at_an_address_is_no_camera(served):
    camera = Camera(f"{served}/night.mp4", wait=lambda seconds: True)
    with pytest.raises(ValueError, match="It is a file of 20 frames, and no camera: download it"):
        list(camera.frames())


def test_a_camera_that_sends_fragmented_mp4_is_one(tmp_path):
    """FFmpeg takes the first fragments for all of it, and OpenCV counts their frames; the server knows no length."""
    with av.open(str(tmp_path / "live.mp4"), "w", options={"movflags": "empty_moov+frag_keyframe"}) as container:
        stream = container.add_stream("libx264", rate=10, options={"g": "5"})
        stream.width = stream.height = 32
        for grey in range(0, 200, 10):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), grey, "uint8"), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(200)
            self.send_header("Content-Type", "video/mp4")
            self.end_headers()

        def do_GET(self):
            self.do_HEAD()
            self.wfile.write((tmp_path / "live.mp4").read_bytes())

    ticks = iter(range(10**6))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/live.mp4"
        camera = Camera(address, clock=lambda: float(next(ticks)), wait=lambda seconds: True)
        assert len(run_to_the_end(camera)) == 20
        server.shutdown()


def test_why_there_is_no_connection_is_said(served, caplog):
    with caplog.at_level(logging.WARNING):
        assert not list(Camera(f"{served}/nothing.mp4", wait=lambda seconds: True).frames())
    assert "no connection (Server returned 404 Not Found)" in caplog.text


def test_a_damaged_frame_is_left_out(monkeypatch):
    """OpenCV says of it that it was grabbed, and then that it cannot be retrieved."""
    import cv2

    class Capture:
        count = 0

        def __init__(self, *arguments):
            pass

        def get(self, _):
            return -1.0

        def isOpened(self):
            return Capture.count == 0

        def grab(self):
            Capture.count += 1
            return Capture.count <= 5

        def retrieve(self):
            return (False, None) if Capture.count == 3 else (True, np.full((2, 2, 3), Capture.count, "uint8"))

        def release(self):
            pass

    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    ticks = iter(range(100))
    camera = Camera("camera:0", clock=lambda: float(next(ticks)), wait=lambda seconds: True)
    camera._run()
    camera.close()
    assert [int(picture[0, 0, 0]) for _, picture in camera.frames()] == [1, 2, 4, 5]


def test_what_waits_is_prepared():
    camera = Script(range(10), step=1.0).camera(prepare=lambda frame: frame[:1])
    camera._run()
    assert camera.waiting == 10
    camera.close()
    assert {picture.shape for _, picture in camera.frames()} == {(1, 2, 3)}


def test_closing_ends_the_frames():
    def endless(source):
        while True:
            yield lambda: np.zeros((2, 2, 3), "uint8")

    camera = Camera("camera:0", fps=1000, read=endless)
    for count, _ in enumerate(camera.frames()):
        if count == 3:
            camera.close()
    assert not any(thread.name == "camera camera:0" for thread in threading.enumerate())


def test_what_goes_wrong_in_the_thread_is_raised():
    def broken(source):
        yield lambda: 1 / 0

    with pytest.raises(ZeroDivisionError):
        list(Camera("camera:0", read=broken).frames())


@pytest.mark.parametrize(
    ("source", "expected"),
    [("camera:0", True), ("rtsp://host/1", True), ("HTTP://host/a.ts", True), ("night.mp4", False), ("a:b.mp4", False)],
)
def test_what_is_live(source, expected):
    assert is_live(source) == expected
    if not expected:
        with pytest.raises(ValueError, match="camera:0"):
            Camera(source)


@pytest.mark.parametrize(("leap", "is_followed"), [(-3600.0, False), (40 * 86_400.0, False), (7200.0, True)])
def test_a_clock_that_is_set(leap, is_followed):
    """Back, or ahead by more than a day, is said and not followed; hours are."""
    script = Script(range(10), step=1.0)
    was_set = iter([0.0] * 5 + [leap] * 5)
    camera = Camera(
        "camera:0",
        read=script.read,
        clock=lambda: script.now + next(was_set),
        steady=lambda: script.now,
        wait=script.wait,
    )
    times = [time for time, _ in run_to_the_end(camera)]
    expected = 1001.0 + np.arange(10) + is_followed * np.repeat([0, leap], 5)
    np.testing.assert_allclose(times, expected)
    assert (f"the clock was set by {leap:+.1f} s" in camera.problems()[-1]) is not is_followed
