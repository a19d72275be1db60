"""What a new user does first, against the installed package: one line of JSON a step, `{"step": …, "error": …}`.

    python -I smoke.py     # from a folder of its own, where it leaves files

A step's error is None where it passed, and "–" where the environment lacks what the step is about.
"""

import importlib.util
import json
import pickle
import re
import subprocess
import sys
import traceback
from pathlib import Path

import keras
import numpy as np

import videoswin_keras
from videoswin_keras import AdamW, RecurrentVideoSwin, VideoSwinT, from_checkpoint
from videoswin_keras.checkpoints.load import open_checkpoint
from videoswin_keras.data.synthetic import MOTIONS, moving_shape
from videoswin_keras.video.encode import write_video

PICO = "pico_moving_shapes"
WINDOW = ("--window", "4", "4", "4")  # of Pico; a checkpoint of another layout does not tell it
SMALL = {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2), "window_size": (2, 3, 3)}


def videoswin(*arguments: str) -> str:
    command = [Path(sys.executable).with_name("videoswin"), *arguments]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, f"videoswin {arguments[0]}: {result.stderr}"
    return result.stdout


def first_words() -> None:
    assert videoswin("--version") == f"{videoswin_keras.__version__}\n"
    assert "classify" in videoswin("--help")
    assert "tiny_kinetics400" in videoswin("models")


def forward() -> None:
    clips = np.stack([moving_shape(motion, seed=10**6 + motion) for motion in range(8)])
    logits = from_checkpoint(PICO, include_rescaling=True).predict(clips, verbose=0)
    assert logits.argmax(-1).tolist() == list(range(8)), logits


def fit() -> None:
    keras.utils.set_random_seed(0)
    model = VideoSwinT((4, 16, 20, 3), num_classes=3, drop_path_rate=0.0, **SMALL)
    model.compile(AdamW(1e-3, weight_decay=0.02), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = model.get_weights()
    history = model.fit(np.random.rand(4, 4, 16, 20, 3).astype("float32"), np.arange(4) % 3, batch_size=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert all((one != other).any() for one, other in zip(before, model.get_weights(), strict=True))


def save_and_load() -> None:
    model = from_checkpoint(PICO)
    clip = np.random.rand(1, 8, 32, 40, 3).astype("float32")
    expected = model.predict(clip, verbose=0)
    model.save("saved.keras")
    model.save_weights("saved.weights.h5")
    for loaded in (keras.models.load_model("saved.keras"), from_checkpoint("saved.weights.h5")):
        np.testing.assert_allclose(loaded.predict(clip, verbose=0), expected, atol=1e-6)


def convert() -> None:
    state = open_checkpoint(PICO).state
    linear = re.compile(r"(qkv|proj|fc1|fc2|reduction|fc_cls)\.weight$")
    paddle = {
        key.replace("cls_head.fc_cls", "head.fc"): value.T if linear.search(key) and value.ndim == 2 else value
        for key, value in state.items()
    }
    Path("paddle.pdparams").write_bytes(pickle.dumps(paddle))
    assert "paddlevideo" in videoswin("convert", "paddle.pdparams", *WINDOW, "-o", "converted.weights.h5")
    models = from_checkpoint(PICO), from_checkpoint("converted.weights.h5")
    for one, other in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_array_equal(one, other)


def convert_safetensors() -> None:
    from safetensors.numpy import save_file

    save_file({key: np.ascontiguousarray(value) for key, value in open_checkpoint(PICO).state.items()}, "a.safetensors")
    assert "official" in videoswin("convert", "a.safetensors", *WINDOW, "-o", "a.keras")


def convert_pth() -> None:
    import torch

    state = {key: torch.from_numpy(np.array(value)) for key, value in open_checkpoint(PICO).state.items()}
    torch.save({"state_dict": state}, "a.pth")
    assert "official" in videoswin("convert", "a.pth", *WINDOW, "-o", "b.keras")


def classify() -> None:
    write_video("left.mp4", moving_shape(0, seed=10**6, frames=48, size=(128, 128)))
    printed = videoswin("classify", "left.mp4", "--weights", PICO, "--top", "1", "--json", "left.json")
    assert printed.splitlines()[1].endswith(f"%  {MOTIONS[0]}"), printed


def stream() -> None:
    clips = [moving_shape(motion, seed=10**6 + motion, frames=112) for motion in (0, 4)]
    write_video("night.mp4", np.concatenate(clips), rate=8)
    videoswin("stream", "night.mp4", "--weights", PICO, "--fps", "8", "--out", "results", "--annotate")
    written = {path.name for path in Path("results/night").iterdir()}
    assert {"bouts.csv", "annotations.edf", "labels.vtt", "report.png", "annotated.mp4"} <= written, written
    bouts = Path("results/night/bouts.csv").read_text()
    assert MOTIONS[0] in bouts, bouts
    assert MOTIONS[4] in bouts, bouts


def memory_step() -> None:
    model = VideoSwinT((4, 16, 20, 3), 5, memory={"stages": (1, 2), "num_tokens": 3, "memory_length": 4}, **SMALL)
    assert isinstance(model, RecurrentVideoSwin)
    clips = np.random.rand(2, 3, 4, 16, 20, 3).astype("float32")
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(clips, np.zeros((2, 3), "int32"), verbose=0)
    state = model.initial_state(2)
    for index in range(3):
        logits, state = model.step(clips[:, index], state)
    expected = model.predict(clips, verbose=0)[:, -1]
    np.testing.assert_allclose(keras.ops.convert_to_numpy(logits), expected, atol=1e-4)


def export() -> None:
    from_checkpoint(PICO).save("exported.keras")
    assert "differs from the model" in videoswin("export", "exported.keras", "-o", "exported.onnx")


def demo() -> None:
    assert "Its hypnogram" in videoswin("demo")


STEPS = {
    first_words: (),
    forward: (),
    fit: (),
    save_and_load: (),
    convert: (),
    convert_safetensors: ("safetensors",),
    convert_pth: ("torch",),
    classify: (),
    stream: (),
    memory_step: (),
    export: ("tensorflow", "tf2onnx"),
    demo: (),
}


def main() -> None:
    assert Path(videoswin_keras.__file__).is_relative_to(sys.prefix), f"not the installed one: {videoswin_keras}"
    for step, needs in STEPS.items():
        error = None
        if any(importlib.util.find_spec(module) is None for module in needs):
            error = "–"
        else:
            try:
                step()
            except Exception:
                error = traceback.format_exc()
        print(json.dumps({"step": step.__name__, "error": error}), flush=True)


if __name__ == "__main__":
    main()
