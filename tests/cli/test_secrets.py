"""Passwords and tokens in addresses are shown nowhere, and kept nowhere."""

import functools
import http.server
import shutil
import threading

import pytest
from test_cli_stream import scripted

from videoswin_keras.checkpoints import download, zoo
from videoswin_keras.cli.main import main
from videoswin_keras.data.synthetic import moving_shape
from videoswin_keras.streaming.camera import Camera
from videoswin_keras.video.encode import write_video

SECRET = "hush4242"
PICO = ["--weights", "pico_moving_shapes", "--fps", "8"]


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def translate_path(self, path):
        return super().translate_path(path.partition(";")[0])

    def send_error(self, code, message=None, explain=None):
        super().send_error(code, f"nothing at {self.path}", explain)


@pytest.fixture
def served(tmp_path, monkeypatch):
    """Address of a server of `pico.weights.h5`; all that is written lies in `tmp_path`."""
    (tmp_path / "served").mkdir()
    shutil.copy(zoo.find("pico_moving_shapes").path, tmp_path / "served" / "pico.weights.h5")
    (tmp_path / "served" / "page.pth").write_text("<html>Log in</html>")
    handler = functools.partial(Handler, directory=str(tmp_path / "served"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "clip.mp4", moving_shape(0, seed=10**6, frames=20, size=64), 8)
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def perform(tmp_path, capfd, caplog):
    """Runs a command line; returns exit code and all that was shown, after a look for the secret at all there is."""

    def perform(*arguments):
        try:
            code = main([argument.format(secret=SECRET) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
        shown = "".join(capfd.readouterr()) + caplog.text
        assert SECRET not in shown
        for path in tmp_path.rglob("*"):
            assert SECRET not in path.name
            assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path
        return code, shown

    return perform


def test_secrets_of_weights_that_work(served, perform, monkeypatch):
    monkeypatch.setattr(Camera, "__init__", functools.partialmethod(Camera.__init__, **scripted(20, 0)))
    weights = ["--weights", served + "/pico.weights.h5;token={secret}?token={secret}#{secret}"]
    assert perform("classify", "clip.mp4", *weights, "--json", "a.json")[0] == 0
    assert perform("convert", weights[1], "-o", "b.weights.h5")[0] == 0
    camera = "rtsp://user:{secret}@10.0.0.7/user=a&password={secret}&channel=1?pwd={secret}"
    code, shown = perform("stream", camera, *weights, "--fps", "8", "--out", "out")
    assert code == 0
    assert "rtsp_10_0_0_7_user_a_password-" in shown


@pytest.mark.parametrize("verb", ["classify", "stream", "convert", "export"])
@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("{served}/no.pth?token={secret}", "404"),
        ("{served}/page.pth?token={secret}", "a web page"),
        ("{served}/token={secret}", "404"),
        ("{served}/page.pth#sha256={secret}", "8 to 64 hexadecimal digits"),
        ("{served}/a page.pth?token={secret}", "spaces"),
        ("http://127.0.0.1:1/no.pth?X-Amz-Signature={secret}", "cannot be reached"),
        ("http://user:{secret}@127.0.0.1/no.pth", "a user or a password"),
        ("http://user:{secret}/@127.0.0.1/no.pth", "malformed"),
        ("ftp://user:{secret}@127.0.0.1/no.pth", "no weights file at ftp://127.0.0.1/no.pth"),
        ("https:/user:{secret}@127.0.0.1/no.keras", "no weights file at https:/127.0.0.1/no.keras"),
    ],
)
def test_secrets_of_weights_that_fail(served, perform, verb, address, said):
    address = address.replace("{served}", served)
    arguments = {
        "classify": ["clip.mp4", "--weights", address, "--json", "a.json"],
        "stream": ["clip.mp4", "--weights", address, "--out", "out"],
        "convert": [address, "-o", "b.weights.h5"],
        "export": [address, "-o", "b.onnx"],
    }[verb]
    code, shown = perform(verb, *arguments)
    assert code == 2
    if verb == "export":  # which takes files alone
        said = "There is no file" if address.endswith(".keras") else "Only .keras models can be exported"
    assert said in shown


@pytest.mark.parametrize(
    "camera",
    [
        "rtsp://user:{secret}@127.0.0.1:1/1",
        "rtsp://user:p@{secret}@127.0.0.1:1/1",
        "rtsp://user:12/{secret}@127.0.0.1:1/1",
        "rtsp://user:a?{secret}@127.0.0.1:1/1",
        "rtsp://127.0.0.1:1/user=admin&password=p@{secret}&channel=1",
        "http://user:{secret}@127.0.0.1:1/live?pwd={secret}",
        "{served}/live?password={secret}",
        "{served}/page.pth?password={secret}",
    ],
)
def test_secrets_of_cameras_out_of_reach(served, perform, tmp_path_factory, monkeypatch, camera):
    """FFmpeg's and OpenCV's own lines are looked at too."""
    monkeypatch.setattr(Camera, "__init__", functools.partialmethod(Camera.__init__, wait=lambda seconds: True))
    addresses = tmp_path_factory.mktemp("private") / "cameras.txt"
    addresses.write_text(f"# the barn\n\n  {camera.format(served=served, secret=SECRET)}\n", encoding="utf-8")
    code, shown = perform("stream", "--source-file", str(addresses), *PICO, "--out", "out")
    assert code == 1
    assert "No frame came from " in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["stream", *2 * ["rtsp://user:{secret}@h/1?pwd={secret}"], *PICO, "--out", "out"], "given twice"),
        (["stream", "rtsp://user:{secret}@h/1", "clip.mp4", *PICO, "--out", "out"], "rtsp://h/1, clip.mp4"),
        (["stream", "htp://user:{secret}@h/1", *PICO, "--out", "out"], "htp://h/1 is no address of a camera"),
        (["stream", "rtsp:/user:{secret}@h/1", *PICO, "--out", "out"], "rtsp:/h/1 is no address of a camera"),
        (["stream", "clip.mp4", *PICO, "--out", "out", "--sources=rtsp://u:a {secret}@h/1"], "unrecognized"),
        (["stream", "clip.mp4", *PICO, "--out", "out", "--hours", "rtsp://u:a {secret}@h/1"], "Received: 'rtsp://h/1'"),
        (["stream", "clip.mp4", *PICO, "--out", "out", "--batch-size=http://h/?{secret}"], "invalid int value"),
        (["stream", *PICO, "--out", "out"], "give a SOURCE, or a --source-file"),
        (["stream", *PICO, "--out", "out", "--source-file", "http://h/?{secret}"], "--source-file must be a text file"),
        (["stream", "clip.mp4", *PICO, "--out", "out", "--classes", "http://h/?{secret}"], "--classes must be"),
        (["classify", "http://user:{secret}@h/clip.mp4"], "http://h/clip.mp4 is an address: download the video"),
        (["http://user:{secret}@h/clip.mp4"], "invalid choice"),
    ],
)
def test_secrets_of_arguments_that_are_refused(served, perform, arguments, said):
    code, shown = perform(*arguments)
    assert code == 2
    assert said in shown
