"""The command line, as a user types it."""

import http.server
import json
import os
import shlex
import subprocess
import sys
import sysconfig
import threading
from fractions import Fraction

import av
import keras
import numpy as np
import pandas
import pytest
import reference
import sources
import torch

from videoswin_keras import from_checkpoint
from videoswin_keras.backend import choose_tensorflow_products
from videoswin_keras.checkpoints import files
from videoswin_keras.classification import VideoPipeline
from videoswin_keras.cli.demo import night_bouts
from videoswin_keras.cli.main import main
from videoswin_keras.data import synthetic
from videoswin_keras.video.decode import probe
from videoswin_keras.video.encode import write_video
from videoswin_keras.video.protocols import Protocol

SCRIPT = f"{sysconfig.get_path('scripts')}/videoswin"  # where pip puts the command


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """A shape that moves left, as H.264."""
    path = tmp_path_factory.mktemp("videos") / "left.mp4"
    write_video(path, synthetic.moving_shape(0, seed=10**6, frames=16, size=128))
    return path


def test_classify(video, tmp_path, capsys):
    output = tmp_path / "results.json"
    code = main(["classify", str(video), "--weights", "pico_moving_shapes", "--top", "2", "--json", str(output)])
    assert code == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == str(video)
    assert printed[1].endswith("%  moving left")
    assert len(printed) == 3
    result = json.loads(output.read_text())["results"][0]
    assert result["labels"] == list(synthetic.MOTIONS)
    assert sum(result["probabilities"]) == pytest.approx(1, abs=1e-5)
    assert np.argmax(result["probabilities"]) == 0


def test_classify_a_folder_with_damaged_files(video, tmp_path, capsys):
    (tmp_path / "a.mp4").write_bytes(video.read_bytes())
    (tmp_path / "b.mp4").write_bytes(b"")
    (tmp_path / "c.mkv").write_bytes(b"this is text")
    (tmp_path / "notes.txt").write_text("not a video, not looked at")
    output = tmp_path / "results.json"
    code = main(["classify", str(tmp_path), "--weights", "pico_moving_shapes", "--json", str(output)])
    assert code == 1
    captured = capsys.readouterr()
    assert "a.mp4" in captured.out
    assert "b.mp4" in captured.err
    assert "c.mkv" in captured.err
    content = json.loads(output.read_text())
    assert len(content["results"]) == 1
    assert [entry["path"].rsplit("/", 1)[-1] for entry in content["failed"]] == ["b.mp4", "c.mkv"]


def test_classify_with_own_classes(video, tmp_path, capsys):
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"class, {index}" for index in range(8)) + "\n")
    assert main(["classify", str(video), "--weights", "pico_moving_shapes", "--classes", str(names)]) == 0
    assert "%  class, 0" in capsys.readouterr().out.splitlines()[1]
    names.write_text("one\ntwo\n")
    assert main(["classify", str(video), "--weights", "pico_moving_shapes", "--classes", str(names)]) == 2
    assert "8 classes, but the list of class names has 2" in capsys.readouterr().err
    names.write_text("one\ntwo\none\n")
    assert main(["classify", str(video), "--weights", "pico_moving_shapes", "--classes", str(names)]) == 2
    assert "'one' twice" in capsys.readouterr().err
    names.write_text("one\n\ntwo\n")
    assert main(["classify", str(video), "--weights", "pico_moving_shapes", "--classes", str(names)]) == 2
    assert "Line 2 is empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{video}", "--weights", "pico_moving_shapes", "--device", "foo"], "--device foo"),
        (["{video}", "--weights", "no_such_model"], "neither a file nor a checkpoint of the zoo"),
        (["{video}", "--weights", "{video}"], "is not a checkpoint"),
        (["{video}", "--weights", "pico_moving_shapes", "--top", "0"], "--top must be at least 1"),
        (["{video}", "--weights", "pico_moving_shapes", "--json", "nowhere/x.json"], "no folder nowhere"),
        (["{empty}", "--weights", "pico_moving_shapes"], "no video files in the folder"),
        (["{video}", "--weights", "pico_moving_shapes", "--json", "{empty}"], "it is a folder"),
        (["{video}", "--weights", "pico_moving_shapes", "--classes", "nowhere.txt"], "--classes must be a text file"),
        (["{video}", "--weights", "pico_moving_shapes", "--classes", "{video}"], "--classes must be a text file"),
    ],
)
def test_classify_errors(arguments, message, video, tmp_path, capsys):
    arguments = [argument.format(video=video, empty=tmp_path) for argument in arguments]
    assert main(["classify", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000 bytes."),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 4000 bytes."),
    ],
    ids=["python", "torch", "jax"],
)
@pytest.mark.parametrize("where", [(VideoPipeline, "probabilities"), (files, "_numbers")], ids=["predict", "read"])
def test_too_little_memory_is_one_line(where, error, video, monkeypatch, capsys):
    def fail(*_):
        raise error

    monkeypatch.setattr(*where, fail)
    assert main(["classify", str(video), "--weights", "pico_moving_shapes"]) == 2
    said = capsys.readouterr().err
    assert "There is not enough memory" in said.splitlines()[-1]
    assert "Traceback" not in said


def test_a_video_that_is_not_there(capsys):
    assert main(["classify", "absent.mp4", "--weights", "pico_moving_shapes"]) == 1
    assert "absent.mp4" in capsys.readouterr().err


def test_an_interruption_keeps_what_was_classified(video, tmp_path, monkeypatch, capsys):
    classify_views = VideoPipeline.classify_views

    def interrupted(self, path, views, progress):
        if path.name == "second.mp4":
            raise KeyboardInterrupt
        return classify_views(self, path, views)

    monkeypatch.setattr(VideoPipeline, "classify_views", interrupted)
    (tmp_path / "second.mp4").write_bytes(video.read_bytes())
    output = tmp_path / "results.json"
    command = ["classify", str(video), str(tmp_path / "second.mp4"), "--weights", "pico_moving_shapes"]
    assert main([*command, "--json", str(output)]) == 130
    assert "stopped" in capsys.readouterr().err
    content = json.loads(output.read_text())
    assert len(content["results"]) == 1
    assert not content["complete"]


def test_the_next_video_is_decoded_meanwhile(video, tmp_path, monkeypatch, capsys):
    """And one that cannot be is reported in its place."""
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    is_begun = threading.Event()
    decode, classify_views = Protocol.views, VideoPipeline.classify_views

    def views(self, path, views, input_rate):
        if path.name == "broken.mp4":
            is_begun.set()
        return decode(self, path, views, input_rate)

    def classified(self, path, views, progress):
        assert is_begun.wait(60)
        return classify_views(self, path, views)

    monkeypatch.setattr(Protocol, "views", views)
    monkeypatch.setattr(VideoPipeline, "classify_views", classified)
    assert main(["classify", str(video), str(tmp_path / "broken.mp4"), "--weights", "pico_moving_shapes"]) == 1
    captured = capsys.readouterr()
    assert "moving left" in captured.out
    assert "skipped" in captured.err


def test_a_converted_model_sees_videos_as_the_original(video, tmp_path, capsys):
    """Names and sampling of a published checkpoint survive conversion to either kind of file."""
    for name in ("pico.keras", "pico.weights.h5"):
        assert main(["convert", "pico_moving_shapes", "-o", str(tmp_path / name)]) == 0
        capsys.readouterr()
        assert main(["classify", str(video), "--weights", str(tmp_path / name), "--top", "1"]) == 0
        captured = capsys.readouterr()
        assert captured.out.splitlines()[1].endswith("%  moving left")
        assert "16 frames, one after another; shorter side 64, crop 64 pixels; 1 view per video" in captured.err


def test_interval(video, capsys):
    assert main(["classify", str(video), "--weights", "pico_moving_shapes", "--interval", "3"]) == 0
    assert "16 frames, one in every 3; shorter side 64" in capsys.readouterr().err
    assert main(["classify", str(video), "--weights", "pico_moving_shapes", "--interval", "0"]) == 2


def test_an_interval_as_long_as_the_video_is_refused(video, capsys):
    count = probe(video).num_frames
    command = ["classify", str(video), "--weights", "pico_moving_shapes", "--interval"]
    assert main([*command, str(count - 1)]) == 0
    capsys.readouterr()
    for interval in (count, 100_000):
        assert main([*command, str(interval)]) == 1
        assert f"Received: interval {interval}; {video} has {count} frames." in capsys.readouterr().err


def test_bare_streams_take_a_rate(video, tmp_path, capsys, caplog):
    path = tmp_path / "stream.mjpeg"
    with av.open(str(path), "w", format="mjpeg") as output:
        stream = output.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuvj420p"
        for number in range(20):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 10 * number, "uint8"), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    command = ["classify", str(path), "--weights", "pico_moving_shapes"]
    assert main([*command, "--input-rate", "10"]) == 0
    assert not caplog.records
    assert main(command) == 0
    assert "FFmpeg's guess" in caplog.text
    assert main(["classify", str(video), "--weights", "pico_moving_shapes", "--input-rate", "10"]) == 1
    assert "has times of its own" in capsys.readouterr().err


def test_convert(tmp_path, capsys):
    source = sources.write_source("torchvision", reference.official_state("nano_window435"), tmp_path)
    assert main(["convert", str(source), "-o", str(tmp_path / "out.weights.h5")]) == 0
    assert "torchvision: embed_dim=24" in capsys.readouterr().out
    assert main(["convert", str(source), "-o", str(tmp_path / "out.keras"), "--to", "keras"]) == 0
    assert main(["convert", str(source), "-o", str(tmp_path / "out.weights.h5"), "--to", "keras"]) == 2
    assert "--to keras writes *.keras" in capsys.readouterr().err
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    assert main(["convert", str(tmp_path / "other.pth"), "-o", str(tmp_path / "other.weights.h5")]) == 2
    assert "Not a Video Swin checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "other.weights.h5").exists()


def test_pytorch_files_are_read_beside_tensorflow_without_triton(tmp_path):
    """Triton, which comes with PyTorch's builds for CUDA, dies where it is imported after TensorFlow."""
    (tmp_path / "triton.py").write_text("open('imported', 'w').close()")
    source = sources.write_source("official", reference.official_state("nano_window435"), tmp_path)
    command = [sys.executable, "-m", "videoswin_keras", "convert", str(source), "-o", "out.keras"]
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "PYTHONPATH": str(tmp_path)}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out.keras").is_file()
    assert not (tmp_path / "imported").exists()


def test_demo(tmp_path, capsys, monkeypatch):
    program = "my projects/.venv/bin/videoswin"  # as it was called, which need not be on the path
    monkeypatch.setattr("sys.argv", [program])
    output = tmp_path / "new folder"
    assert main(["demo", "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    commands = [line.partition("Now: ")[2] for line in printed.splitlines() if "Now: " in line]
    for command in commands:
        assert command.startswith(f"KERAS_BACKEND={keras.backend.backend()} {shlex.quote(program)} ")
    pasted = commands[1].replace(shlex.quote(program), f"{sys.executable} -m videoswin_keras")
    result = subprocess.run(pasted, shell=True, capture_output=True, text=True)
    assert "night: done already" in result.stdout, result.stderr
    files = commands[0].partition(" classify ")[2].partition(" --weights")[0]
    assert len(subprocess.run(f"ls {files}", shell=True, capture_output=True).stdout.splitlines()) == 8
    classified, streamed = printed.split("\n\nDrew a night")
    lines = classified.splitlines()[2:]
    paths, best = lines[::3], [line.split("%  ")[1] for line in lines[1::3]]
    assert [path.rsplit("/", 1)[1] for path in paths] == [f"{motion.replace(' ', '_')}.mp4" for motion in best]
    assert best == list(synthetic.MOTIONS)
    assert (output / "moving_shapes_night" / "results" / "night" / "report.png").is_file()
    assert "night: 14 min 22 s" in streamed
    expected, second = [], 0.0
    for motion, frames in night_bouts():
        expected.append((second, "unscored" if motion is None else synthetic.MOTIONS[motion]))
        second += frames / 8
    bouts = pandas.read_csv(output / "moving_shapes_night" / "results" / "night" / "bouts.csv", skiprows=1)
    assert list(bouts.label) == [label for _, label in expected]
    np.testing.assert_allclose(bouts.start_s, [start for start, _ in expected], atol=2)


def test_demo_follows_no_link(tmp_path, capsys):
    """Another may have put it there; results of an earlier demo are removed where it leads."""
    (tmp_path / "mine" / "results" / "night").mkdir(parents=True)
    (tmp_path / "mine" / "results" / "night" / "thesis.txt").touch()
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "moving_shapes_night").symlink_to(tmp_path / "mine")
    assert main(["demo", "--output", str(tmp_path / "demo")]) == 2
    assert "moving_shapes_night is a link" in capsys.readouterr().err
    assert [path.name for path in tmp_path.glob("mine/**/*.*")] == ["thesis.txt"]


def test_demo_ends_at_ctrl_c(tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(VideoPipeline, "classify_views", stopped)
    assert main(["demo", "--output", str(tmp_path)]) == 130
    assert not (tmp_path / "moving_shapes_night" / "night.mp4").exists()


def test_models(capsys):
    assert main(["models"]) == 0
    assert "base_something_something_v2" in capsys.readouterr().out


def test_help_and_version(capsys):
    assert main([]) == 2
    assert main(["--version"]) == 0
    for verb in ("classify", "convert", "models"):
        with pytest.raises(SystemExit) as stop:
            main([verb, "--help"])
        assert stop.value.code == 0
        assert f"videoswin {verb}" in capsys.readouterr().out


def run(code, **environment):
    kept = {key: value for key, value in os.environ.items() if key != "KERAS_BACKEND"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env={**kept, **environment}, capture_output=True, text=True)


def test_backend_is_chosen_among_the_installed(tmp_path):
    """Keras's own choice where it is installed; else another, which is said."""
    code = "import videoswin_keras.cli.main as cli; sys.exit(cli.main(['convert', 'absent.pth', '-o', 'x.keras']))"
    code = f"import sys; sys.argv[0] = {SCRIPT!r}\n" + code
    (tmp_path / "keras.json").write_text('{"backend": "jax"}')
    result = run(code, KERAS_HOME=str(tmp_path))
    assert "Backend: jax" in result.stderr
    hidden = (
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'tensorflow' else find(name, *a)\n"
    )
    (tmp_path / "keras.json").write_text('{"backend": "tensorflow"}')
    result = run(hidden + code, KERAS_HOME=str(tmp_path))
    assert "tensorflow is not installed; Keras runs on torch" in result.stderr
    result = run(hidden + code, KERAS_HOME=str(tmp_path), KERAS_BACKEND="tensorflow")
    assert "KERAS_BACKEND is tensorflow, which is not installed: pip install tensorflow" in result.stderr
    result = run(code, KERAS_BACKEND="banana")
    assert result.stderr == "videoswin: error: KERAS_BACKEND is 'banana'. It must be one of torch, jax, tensorflow.\n"
    assert result.returncode == 2


def test_tensorflow_multiplies_by_onednn(monkeypatch):
    """On x86, unless the user has said something else."""
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    choose_tensorflow_products()
    assert "TF_ENABLE_ONEDNN_OPTS" not in os.environ
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    choose_tensorflow_products()
    assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == "0"
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS")
    choose_tensorflow_products()
    assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == "1"


def test_tensorflow_is_told_by_the_command_line_alone(monkeypatch):
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    said = "; print(os.environ.get('TF_ENABLE_ONEDNN_OPTS'))"
    imports = "import os, platform, sys; platform.machine = lambda: 'x86_64'; "
    verb = "from videoswin_keras.cli.main import main; main(['convert', 'absent.pth', '-o', 'absent.keras'])"
    command = imports + f"sys.argv[0] = {SCRIPT!r}; " + verb + said
    assert run(command, KERAS_BACKEND="tensorflow").stdout == "1\n"
    assert run(command, KERAS_BACKEND="torch").stdout == "None\n"
    library = imports + "import videoswin_keras" + said
    assert run(library, KERAS_BACKEND="tensorflow").stdout == "None\n"  # it leaves the user's process as it is


@pytest.mark.parametrize("name", ["program.py", "videoswin.py", "videoswin"])
def test_import_registers_all_classes_in_a_user_s_program(name, tmp_path):
    """`keras.models.load_model` finds them after `import videoswin_keras`, whatever the program is called."""
    from_checkpoint("pico_moving_shapes").save(tmp_path / "ours.keras")
    program = tmp_path / name
    program.write_text("import videoswin_keras, keras; print(type(keras.models.load_model('ours.keras')).__name__)")
    result = subprocess.run([sys.executable, str(program)], cwd=tmp_path, capture_output=True, text=True)
    assert result.stdout == "VideoSwinClassifier\n", result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stream", "a.mp4", "--weigths", "x", "--out", "y"], "--weigths is not known. Did you mean --weights?"),
        (
            ["stream", "a.mp4", "--weights", "x", "--out", "y", "--smoth=3"],
            "--smoth is not known. Did you mean --smooth?",
        ),
        (["clasify", "a.mp4"], "clasify is not known. Did you mean classify?"),
    ],
)
def test_a_misspelt_option_suggests_the_right_one(arguments, message, capsys):
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("verb", [["classify", "a.mp4"], ["stream", "a.mp4", "--out", "y"]])
def test_missing_weights_are_said_before_anything_is_loaded(verb):
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    command = [sys.executable, "-m", "videoswin_keras", *verb, "--weights", "models/sows.keras"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr == "videoswin: error: There is no weights file at models/sows.keras. Is the path right?\n"


def test_names_cannot_steer_the_terminal(tmp_path, capsys):
    name = "clip\x1b[31m\r.mp4"
    (tmp_path / name).write_bytes(b"nothing")
    assert main(["classify", str(tmp_path / name), "--weights", "pico_moving_shapes"]) == 1
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out + captured.err
    assert r"clip\x1b[31m\r.mp4 is not a readable video" in captured.err


def test_only_our_own_lines_are_printed(tmp_path):
    """Of a damaged video, from a file and over HTTP: FFmpeg and OpenCV have a lot to say about both."""
    rng = np.random.default_rng(0)
    for name in ("a.mp4", "b.ts"):
        write_video(tmp_path / name, synthetic.moving_shape(0, seed=10**6, frames=80, size=64), rate=8)
        content = bytearray((tmp_path / name).read_bytes())
        for place in rng.integers(1000, len(content) // 2, 20):
            content[place] ^= 255
        (tmp_path / name).write_bytes(content)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=tmp_path)

        def log_message(self, *arguments):
            pass

    command = [sys.executable, "-m", "videoswin_keras", "stream", "--weights", "pico_moving_shapes", "--out", "{out}"]
    environment = {**os.environ, "KERAS_BACKEND": "torch"}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/b.ts"
        for number, source in enumerate(([str(tmp_path / "a.mp4")], [address, "--hours", "0.002"])):
            arguments = [part.format(out=tmp_path / str(number)) for part in command]
            result = subprocess.run([*arguments, *source], env=environment, capture_output=True, text=True)
            for line in result.stderr.splitlines():
                assert line.startswith(("videoswin: ", "Clips: ", "Ctrl-C ")), line
        server.shutdown()
