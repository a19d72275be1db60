"""From a name, an address or a file to a model, with a server of our own in the place of the publishers'."""

import errno
import functools
import json
import threading
import zipfile
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import h5py
import keras
import numpy as np
import peers
import pytest
import reference
import sources
import torch

import videoswin_keras
from videoswin_keras import (
    RecurrentVideoSwin,
    VideoSwinBackbone,
    VideoSwinClassifier,
    convert,
    from_checkpoint,
    load_checkpoint,
)
from videoswin_keras.checkpoints import files, load, own, zoo
from videoswin_keras.checkpoints.download import cache_directory
from videoswin_keras.checkpoints.errors import CheckpointError
from videoswin_keras.classification import VideoPipeline, load_classifier
from videoswin_keras.models.saved import load_model

NANO = {"embed_dim": 24, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8), "window_size": (4, 3, 5)}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        self.server.count += 1


@pytest.fixture
def server(tmp_path):
    """Serves the folder `served`; `count` is how many requests there were."""
    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    server.count, server.folder, server.url = 0, folder, f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def clean_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def nano():
    return reference.official_state("nano_window435")


@pytest.mark.usefixtures("clean_cache")
def test_an_address_is_downloaded_and_converted_once(server, nano):
    path = sources.write_source("official", nano, server.folder)
    url = f"{server.url}/{path.name}?Signature=secret&file=x.pth"
    model = from_checkpoint(url)
    requests = server.count
    assert requests > 0
    again = from_checkpoint(url)
    assert server.count == requests
    for first, second in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)
    (kept,) = [file.name for file in cache_directory().iterdir()]
    assert kept.endswith(".weights.h5")
    assert "secret" not in kept


@pytest.mark.usefixtures("clean_cache")
def test_a_name_of_the_zoo(server, nano, monkeypatch):
    path = sources.write_source("official", nano, server.folder)
    entry = replace(zoo.find("tiny_kinetics400"), url=f"{server.url}/{path.name}", sha256_prefix=None)
    monkeypatch.setitem(zoo.ENTRIES, "tiny_kinetics400", entry)
    arguments = {**NANO, "num_classes": 10}
    model = videoswin_keras.VideoSwinT((None, None, None, 3), weights="kinetics400", **arguments)
    expected = VideoSwinClassifier(VideoSwinBackbone((None, None, None, 3), **NANO), 10)
    load_checkpoint(expected, path)
    for first, second in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.usefixtures("clean_cache")
def test_an_image_swin_by_address_is_the_one_by_path(server, tmp_path):
    """It is kept as it is: the cache must not fix the window it is inflated to."""
    path = server.folder / "swin.pth"
    torch.save(peers.swin_t().state_dict(), path)
    for window in ((8, 7, 7), (4, 5, 5)):
        by_path = convert(path, tmp_path / "path.weights.h5", window_size=window)
        by_url = convert(f"{server.url}/{path.name}", tmp_path / "url.weights.h5", window_size=window)
        assert by_path.architecture == by_url.architecture
        for key, value in by_path.state.items():
            np.testing.assert_array_equal(value, by_url.state[key], err_msg=key)
    assert server.count == 1
    assert [file.suffixes for file in cache_directory().iterdir()] == [[".weights", ".h5"]]


ATTENTION = "layers/video_swin_backbone/layers/video_swin_stage/blocks/video_swin_block/attention"


def flip(file):
    weight = file[f"{ATTENTION}/qkv/vars/1"]
    values = weight[()]
    values.view("uint8").reshape(-1)[3] ^= 64  # of the first one's exponent
    weight[...] = values


def change_window(file):
    file[f"{ATTENTION}/vars/window_size"][0] = 8


def change_metadata(file):
    file.attrs[own.METADATA] = file.attrs[own.METADATA].replace("official", "officiak")


def forget_checksum(file):
    """As by a version that wrote none."""
    del file.attrs["videoswin_keras_sha256"]


@pytest.mark.usefixtures("clean_cache")
@pytest.mark.parametrize("damage", [flip, change_window, change_metadata, forget_checksum], ids=lambda d: d.__name__)
def test_what_is_damaged_in_the_cache_is_downloaded_anew(server, nano, damage, caplog):
    url = f"{server.url}/{sources.write_source('official', nano, server.folder).name}"
    path = load.locate(url)
    content = files.read(path)
    with h5py.File(path, "r+") as file:
        damage(file)
    assert load.locate(url) == path
    assert [record.getMessage() for record in caplog.records] == [
        f"{path} is damaged, or was not written by this version: it is downloaded anew"
    ]
    assert server.count == 2
    for name, value in files.read(path).items():
        np.testing.assert_array_equal(value, content[name], err_msg=name)


@pytest.mark.parametrize("damage", [flip, change_window, change_metadata], ids=lambda d: d.__name__)
def test_damage_to_a_converted_file_is_found(nano, tmp_path, damage):
    path = tmp_path / "nano.weights.h5"
    convert(sources.write_source("official", nano, tmp_path), path)
    with h5py.File(path, "r+") as file:
        damage(file)
    with pytest.raises(CheckpointError, match=r"nano\.weights\.h5: its weights are others than were written"):
        load.open_checkpoint(path)


def test_damage_to_a_converted_memory_is_found(tmp_path):
    model = RecurrentVideoSwin(from_checkpoint("pico_moving_shapes"), num_tokens=4, memory_length=2)
    model.save(tmp_path / "pico.keras")
    convert(tmp_path / "pico.keras", tmp_path / "pico.weights.h5")
    load.open_checkpoint(tmp_path / "pico.weights.h5")
    with h5py.File(tmp_path / "pico.weights.h5", "r+") as file:
        file["layers/feedback_attention_memory/vars/0"][...] += 1
    with pytest.raises(CheckpointError, match="its weights are others than were written"):
        load.open_checkpoint(tmp_path / "pico.weights.h5")


@pytest.mark.usefixtures("clean_cache")
@pytest.mark.parametrize(
    ("kind", "said"), [("page", "it is a web page"), ("cut", r"official\.pth"), ("other", r"official\.pth")]
)
def test_what_cannot_be_opened_is_not_kept(server, nano, kind, said):
    path = sources.write_source("official", nano, server.folder)
    whole = path.read_bytes()
    if kind == "other":
        sources.write_torch({"weight": np.zeros(3, "float32")}, path)
    else:
        path.write_bytes(b"<!DOCTYPE html><title>Log in</title>" if kind == "page" else whole[: len(whole) // 2])
    url = f"{server.url}/{path.name}"
    with pytest.raises(CheckpointError, match=said) as error:
        load.locate(f"{url}?token=secret")
    assert f"It came from {url}, and was removed; another call downloads it anew." in str(error.value)
    assert "secret" not in str(error.value)
    assert list(cache_directory().iterdir()) == []
    path.write_bytes(whole)
    assert load.locate(f"{url}?token=secret").is_file()


@pytest.mark.usefixtures("clean_cache")
@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt(), OSError(errno.EIO, "broken")], ids=repr)
def test_what_only_the_machine_lacked_does_not_cost_the_download(server, nano, monkeypatch, error):
    path = sources.write_source("official", nano, server.folder)
    with monkeypatch.context() as patch:
        patch.setattr(load, "recognise", lambda tensors: (_ for _ in ()).throw(error))
        with pytest.raises((CheckpointError, KeyboardInterrupt)):
            load.locate(f"{server.url}/{path.name}")
    assert load.locate(f"{server.url}/{path.name}").is_file()
    assert server.count == 1


@pytest.mark.usefixtures("clean_cache")
def test_what_is_in_a_cache_that_cannot_be_written_to(server, nano, monkeypatch):
    path = sources.write_source("official", nano, server.folder)
    load.locate(f"{server.url}/{path.name}")

    def refuse(_):
        raise PermissionError("read-only")

    monkeypatch.setattr(load, "locked", refuse)
    assert load.locate(f"{server.url}/{path.name}").is_file()


def test_a_folder_does_not_hide_a_name(tmp_path, monkeypatch):
    (tmp_path / "pico_moving_shapes").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load.locate("pico_moving_shapes").is_file()


def test_what_a_fitted_model_saves(nano, tmp_path):
    """`ModelCheckpoint` writes the optimizer and the metrics too."""
    path = sources.write_source("official", nano, tmp_path)
    model = from_checkpoint(path, input_shape=(None, None, None, 3))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    clips = np.random.default_rng(0).normal(size=(2, 4, 32, 32, 3)).astype("float32")
    model.fit(clips, np.array([1, 2]), verbose=0)
    model.save_weights(tmp_path / "fitted.weights.h5")
    model.save(tmp_path / "fitted.keras")
    for restored in (
        from_checkpoint(tmp_path / "fitted.weights.h5"),
        VideoSwinClassifier.from_config(model.get_config()),
    ):
        load_checkpoint(restored, tmp_path / "fitted.keras")
        for first, second in zip(restored.get_weights(), model.get_weights(), strict=True):
            np.testing.assert_array_equal(first, second)


def test_a_whole_model_is_not_taken_for_its_weights(tmp_path):
    """Weights alone would lose the pooling, silently."""
    backbone = VideoSwinBackbone((None, None, None, 3), embed_dim=8, depths=(1, 1), num_heads=(1, 1))
    VideoSwinClassifier(backbone, 3, pooling="max").save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="is a whole model"):
        from_checkpoint(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="is a whole model"):
        convert(tmp_path / "model.keras", tmp_path / "out.keras")
    convert(tmp_path / "model.keras", tmp_path / "out.weights.h5")


def test_arguments_that_change_no_weight(nano, tmp_path):
    path = sources.write_source("official", nano, tmp_path)
    model = from_checkpoint(
        path, (None, None, None, 3), activation="softmax", pooling="max", name="mine", trainable=False
    )
    assert model.name == "mine"
    assert model.arguments["activation"] == "softmax"
    assert model.arguments["pooling"] == "max"
    assert not model.trainable_variables
    with pytest.raises(ValueError, match="3 channels"):
        from_checkpoint(path, (None, None, None, 1))


@pytest.mark.parametrize("source", ["official", "torchvision"])
def test_names_and_protocol_survive_conversion(source, tmp_path):
    """400 classes in a published format are those of Kinetics-400; torchvision tests in a way of its own."""
    state = dict(reference.official_state("nano_window435"))
    rng = np.random.default_rng(0)
    for key in ("cls_head.fc_cls.weight", "cls_head.fc_cls.bias"):
        state[key] = rng.normal(size=(400, *state[key].shape[1:])).astype("float32")
    path = sources.write_source(source, state, tmp_path)
    convert(path, tmp_path / "converted.weights.h5")
    for weights in (path, tmp_path / "converted.weights.h5"):
        pipeline = VideoPipeline.load(weights)
        assert pipeline.labels[:2] == ("abseiling", "air drumming")
        assert pipeline.protocol.num_views == 12
        assert pipeline.protocol.num_crops == (1 if source == "torchvision" else 3)


def test_probabilities_of_models_with_an_activation():
    logits = from_checkpoint("pico_moving_shapes", include_rescaling=True)
    clip = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), "uint8")
    expected = VideoPipeline(logits).probabilities(clip)
    assert expected.sum() == pytest.approx(1, abs=1e-5)
    for activation in ("softmax", keras.activations.softmax):
        model = VideoSwinClassifier(logits.backbone, 8, activation=activation)
        model.get_layer("head").set_weights(logits.get_layer("head").get_weights())
        np.testing.assert_allclose(VideoPipeline(model).probabilities(clip), expected, atol=1e-6)


def test_a_model_of_clips_that_are_not_square(tmp_path):
    backbone = VideoSwinBackbone((4, 32, 40, 3), embed_dim=8, depths=(1, 1), num_heads=(1, 1))
    VideoSwinClassifier(backbone, 3).save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="32 × 40"):
        VideoPipeline.load(tmp_path / "model.keras")


def test_a_model_with_a_memory_classifies_single_videos(tmp_path):
    """As a stream that begins: the memory is empty, and adds nothing."""
    inner = from_checkpoint("pico_moving_shapes", include_rescaling=True)
    model = RecurrentVideoSwin(inner, num_tokens=4, memory_length=2)
    memory = model.memories["stage4"]
    rng = np.random.default_rng(0)
    memory.set_weights([rng.normal(size=weight.shape) for weight in memory.get_weights()])
    clip = rng.integers(0, 256, (4, 32, 32, 3), "uint8")
    logits, _ = model.step(clip[None].astype("float32"), model.initial_state(1))
    expected = keras.ops.convert_to_numpy(keras.ops.softmax(logits))[0]
    for name, save in (("model.keras", model.save), ("model.weights.h5", model.save_weights)):
        save(tmp_path / name)
        pipeline = VideoPipeline.load(tmp_path / name)
        np.testing.assert_allclose(pipeline.probabilities(clip), expected, atol=1e-6)
        loaded, labels, _ = load_classifier(tmp_path / name)
        assert isinstance(loaded, RecurrentVideoSwin)
        assert labels[:2] == ("class 0", "class 1")


def test_two_names_for_one_tensor(nano, tmp_path):
    sources.write_torch({**nano, "backbone.norm3.weight": nano["backbone.norm.weight"]}, tmp_path / "a.pth")
    sources.write_torch({**nano, "module.backbone.norm.weight": nano["backbone.norm.weight"]}, tmp_path / "b.pth")
    for name in ("a.pth", "b.pth"):
        with pytest.raises(CheckpointError, match="twice"):
            convert(tmp_path / name, tmp_path / "out.weights.h5")


@pytest.mark.parametrize("dtype", ["bfloat16", "mixed_bfloat16", "float16"])
def test_narrow_models_of_our_own(dtype, tmp_path):
    """Saved by Keras, and taken as weights or as a whole: the values are those that were saved."""
    arguments = {"embed_dim": 8, "depths": (1,), "num_heads": (1,), "window_size": (2, 3, 3)}
    any_clip = (None, None, None, 3)
    model = VideoSwinClassifier(VideoSwinBackbone(any_clip, **arguments, dtype=dtype), 3, dtype=dtype)
    model.save(tmp_path / "x.keras")
    model.save_weights(tmp_path / "x.weights.h5")
    expected = [np.asarray(weight).astype("float32") for weight in model.get_weights()]
    convert(tmp_path / "x.keras", tmp_path / "converted.weights.h5")
    into = VideoSwinClassifier(VideoSwinBackbone(any_clip, **arguments), 3)
    load_checkpoint(into, tmp_path / "x.keras")
    of_weights = [load_classifier(tmp_path / name)[0] for name in ("x.weights.h5", "converted.weights.h5")]
    for loaded in (into, *of_weights):
        for weight, value in zip(loaded.get_weights(), expected, strict=True):
            assert weight.dtype == np.float32
            np.testing.assert_array_equal(weight, value)
    whole = VideoPipeline.load(tmp_path / "x.keras")
    for weight, original in zip(whole.model.weights, model.weights, strict=True):
        assert weight.dtype == original.dtype
    clip = np.random.default_rng(0).integers(0, 256, (4, 24, 24, 3), "uint8")
    np.testing.assert_allclose(whole.probabilities(clip), VideoPipeline(model).probabilities(clip), atol=1e-6)


def test_a_whole_model_of_an_older_port(nano, tmp_path):
    """Its weights are taken; what its configuration names is not even looked at."""
    tables = {key: np.resize(v, (15 * 13 * 13, v.shape[1])) for key, v in nano.items() if key.endswith("bias_table")}
    state = {key: value for key, value in (nano | tables).items() if "index" not in key}
    path = sources.write_source("keras_port", state, tmp_path)
    config = {"module": "videoswin.models", "class_name": "VideoSwin", "config": {}, "registered_name": "VideoSwin"}
    with zipfile.ZipFile(tmp_path / "port.keras", "w") as archive:
        archive.write(path, "model.weights.h5")
        archive.writestr("config.json", json.dumps(config))
    clip = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), "uint8")
    expected = VideoPipeline.load(sources.write_source("official", state, tmp_path)).probabilities(clip)
    np.testing.assert_allclose(VideoPipeline.load(tmp_path / "port.keras").probabilities(clip), expected, atol=1e-6)
    with pytest.raises(CheckpointError, match=r"port\.keras: it is a model of an older Keras port.*videoswin convert"):
        load_model(tmp_path / "port.keras")


def test_clips_normalised_in_another_way(nano, tmp_path):
    """Who loads the weights normalises as they like; what normalises by itself refuses."""
    path = tmp_path / "x.pth"
    sources.write_torch(nano | {"data_preprocessor.mean": np.full(3, 127.5, "float32")}, path)
    load_checkpoint(VideoSwinClassifier(VideoSwinBackbone((None, None, None, 3), **NANO), 10), path)
    convert(path, tmp_path / "x.weights.h5")
    convert(path, tmp_path / "x.keras")
    for name in ("x.pth", "x.weights.h5", "x.keras"):
        with pytest.raises(CheckpointError, match=r"trained with a mean of \[127\.5, 127\.5, 127\.5\]"):
            load_classifier(tmp_path / name)
    rounded = {"data_preprocessor.mean": np.array([123.68, 116.28, 103.53], "float32").reshape(3, 1, 1)}
    sources.write_torch(nano | rounded, path)
    load_classifier(path)
