"""Every source format converts exactly, or fails with one clear error and leaves nothing behind."""

import os
import pickle
import re
import resource
import zipfile
from dataclasses import replace

import h5py
import numpy as np
import pytest
import reference
import sources
import torch
from keras import ops

import videoswin_keras
from videoswin_keras import (
    CheckpointError,
    VideoSwinBackbone,
    VideoSwinClassifier,
    VideoSwinT,
    convert,
    from_checkpoint,
)
from videoswin_keras.checkpoints import files
from videoswin_keras.checkpoints.formats import recognise
from videoswin_keras.checkpoints.layout import Architecture, window_of_index, windows_with_rows
from videoswin_keras.cli.main import main

NANO = {"embed_dim": 24, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8), "window_size": (4, 3, 5)}
ANY = (None, None, None, 3)


@pytest.fixture(scope="module")
def nano():
    return reference.official_state("nano_window435")


@pytest.fixture(scope="module")
def nano_weights(nano, tmp_path_factory):
    """What the official checkpoint converts to; that these are right, `test_parity` shows."""
    folder = tmp_path_factory.mktemp("nano")
    path = sources.write_source("official", nano, folder)
    convert(path, folder / "nano.weights.h5")
    return folder / "nano.weights.h5"


def datasets(path):
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return {name: value for name, value in found.items() if not name.endswith("/seed")}  # of what is dropped next


def assert_same_weights(first, second):
    first, second = datasets(first), datasets(second)
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)


# --- exact ------------------------------------------------------------------------------------------------------


def square(state):
    """The same for a window of (4, 4, 4), that no file says: with bias tables of as many rows."""
    tables = {key: np.resize(v, (7**3, v.shape[1])) for key, v in state.items() if key.endswith("bias_table")}
    return {key: value for key, value in (state | tables).items() if "index" not in key}


def test_the_keras_ports_convert_exactly(nano, tmp_path):
    """They save no window. Where it is not square they index its tables in an order of their own."""
    source = sources.write_source("keras_port", square(nano), tmp_path)
    with pytest.raises(CheckpointError, match="does not say its window"):
        convert(source, tmp_path / "out.weights.h5")
    convert(source, tmp_path / "out.weights.h5", window_size=(4, 4, 4))
    official = sources.write_source("official", square(nano), tmp_path)
    convert(official, tmp_path / "official.weights.h5", window_size=(4, 4, 4))
    assert_same_weights(tmp_path / "out.weights.h5", tmp_path / "official.weights.h5")
    source = sources.write_source("keras_port", nano, tmp_path)
    with pytest.raises(CheckpointError, match=r"The window \(4, 3, 5\) is not square"):
        convert(source, tmp_path / "out.weights.h5", window_size=(4, 3, 5))


@pytest.mark.parametrize("name", sorted(sources.SOURCES.keys() - {"keras_port"}))
def test_every_format_converts_exactly(name, nano, nano_weights, tmp_path):
    source = sources.write_source(name, nano, tmp_path)
    checkpoint = convert(source, tmp_path / "out.weights.h5")
    assert checkpoint.architecture == Architecture(**NANO, num_classes=10)
    assert_same_weights(tmp_path / "out.weights.h5", nano_weights)
    model = VideoSwinClassifier(VideoSwinBackbone(ANY, **NANO), 10)
    videoswin_keras.load_checkpoint(model, source)
    expected = VideoSwinClassifier(VideoSwinBackbone(ANY, **NANO), 10)
    expected.load_weights(nano_weights)  # by Keras itself
    for variable, other in zip(model.trainable_variables, expected.trainable_variables, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), ops.convert_to_numpy(other))


@pytest.mark.parametrize(
    ("manifest", "rename", "other"),
    [
        ("swin_tiny_patch244_window877_kinetics400_1k", sources.as_mmaction2, "mmaction2_swin_tiny_k400"),
        ("swin_tiny_patch244_window877_kinetics400_1k", sources.as_torchvision, "torchvision_swin3d_t"),
        ("swin_base_patch244_window877_kinetics400_1k", sources.as_torchvision, "torchvision_swin3d_b"),
        ("swin_small_patch244_window877_kinetics400_1k", sources.as_paddlevideo, "paddlevideo_videoswin_small_k400"),
        ("swin_base_patch244_window877_kinetics400_1k", sources.as_paddlevideo, "paddlevideo_videoswin_base_k400"),
        (
            "swin_tiny_patch244_window877_kinetics400_1k",
            sources.as_keras_port,
            "innat_videoswin_tiny_classifier.weights.h5",
        ),
        (
            "swin_tiny_patch244_window877_kinetics400_1k",
            sources.as_keras_port,
            "keras_cv_videoswin_tiny_classifier.weights.h5",
        ),
        (
            "swin_tiny_patch244_window877_kinetics400_1k",
            sources.as_keras_port_backbone,
            "innat_videoswin_tiny_backbone.weights.h5",
        ),
    ],
)
def test_formats_are_those_of_the_real_files(manifest, rename, other):
    """The keys and shapes that the writers of this test make are those recorded from the published files, and what
    is recognised in them is the official state, value for value."""
    official = reference.official_state(manifest)
    renamed = rename(official)
    recorded = reference.other_manifest(other)
    assert {key: list(value.shape) for key, value in renamed.items()} == {key: v[0] for key, v in recorded.items()}
    checkpoint = recognise(renamed)
    expected = recognise(official)
    without_head = {"num_classes": None} if "backbone" in other else {}
    assert checkpoint.architecture == replace(expected.architecture, **without_head)
    for key, value in checkpoint.state.items():
        np.testing.assert_array_equal(value, expected.state[key], err_msg=key)
    missing = {"cls_head.fc_cls.weight", "cls_head.fc_cls.bias"} if without_head else set()
    assert expected.state.keys() - checkpoint.state.keys() == missing


@pytest.mark.parametrize("name", [path.stem for path in (reference.DATA / "manifests").glob("*.json")])
def test_architecture_of_every_official_checkpoint(name):
    """Recognised from keys and shapes alone."""
    content = reference.manifest(name)
    state = {key: np.broadcast_to(np.float32(0), shape) for key, shape in content["parameters"].items()}
    index = {key: reference.official_state("nano_window435")[key] for key in content["buffers"] if "nano" in name}
    architecture = recognise({**state, **index}).architecture
    for field in ("embed_dim", "depths", "num_heads", "window_size", "patch_size", "num_classes", "mlp_ratio"):
        expected = content["architecture"][field]
        assert getattr(architecture, field) == (tuple(expected) if isinstance(expected, list) else expected), field


@pytest.mark.parametrize("name", ["mmaction2_swin_large_k700", "mmaction2_swin_small_k710"])
def test_architecture_of_other_published_checkpoints(name):
    state = {
        key: np.broadcast_to(np.float32(0), shape)
        for key, (shape, _) in reference.other_manifest(name).items()
        if "index" not in key
    }
    architecture = recognise(state).architecture
    large = "large" in name
    assert architecture.num_classes == (700 if large else 710)
    assert architecture.depths == (2, 2, 18, 2)
    assert architecture.embed_dim == (192 if large else 96)
    assert set(architecture.shapes()) == {key.replace("norm3", "norm") for key in state}


def test_reading_what_keras_writes(nano_weights, tmp_path):
    """Our own converter's file, Keras's `save_weights`, and `.keras` are one format."""
    model = from_checkpoint(nano_weights)
    model.save_weights(tmp_path / "keras.weights.h5")
    model.save(tmp_path / "model.keras")
    assert_same_weights(tmp_path / "keras.weights.h5", nano_weights)
    for name in ("keras.weights.h5", "model.keras"):
        convert(tmp_path / name, tmp_path / f"again_{name}.weights.h5")
        assert_same_weights(tmp_path / f"again_{name}.weights.h5", nano_weights)
    backbone = VideoSwinBackbone(ANY, **NANO)
    videoswin_keras.load_checkpoint(backbone, nano_weights)
    backbone.save_weights(tmp_path / "backbone.weights.h5")
    convert(nano_weights, tmp_path / "converted_backbone.weights.h5", drop_head=True)
    assert_same_weights(tmp_path / "backbone.weights.h5", tmp_path / "converted_backbone.weights.h5")


@pytest.mark.parametrize("include_top", [True, False])
def test_a_memory_is_written_as_keras_writes_it(include_top, tmp_path):
    memory = {"stages": (1, 4), "num_tokens": 2, "memory_length": 3}
    model = VideoSwinT(ANY, num_classes=3, include_top=include_top, memory=memory, **NANO)
    model.save_weights(tmp_path / "keras.weights.h5")
    convert(tmp_path / "keras.weights.h5", tmp_path / "out.weights.h5")
    written = datasets(tmp_path / "out.weights.h5")
    expected = datasets(tmp_path / "keras.weights.h5")
    assert written.keys() == {name for name in expected if not name.endswith("/seed")}
    for name, value in written.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
        assert value.dtype == expected[name].dtype
    model.load_weights(tmp_path / "out.weights.h5")


@pytest.mark.parametrize("name", ["out.weights.h5", "out.keras"])
def test_a_full_disk(name, nano_weights, tmp_path, capsys):
    """A limit of the size of files stands in for it. HDF5 would end the process."""
    (tmp_path / name).write_text("older")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
    try:
        code = main(["convert", str(nano_weights), "-o", str(tmp_path / name)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 2
    assert re.fullmatch(r"videoswin: error: There is no room left to write .*\n", capsys.readouterr().err)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "older"


def test_whole_model(nano, nano_weights, tmp_path):
    import keras

    convert(sources.write_source("torchvision", nano, tmp_path), tmp_path / "out.keras")
    model = keras.models.load_model(tmp_path / "out.keras")
    case = reference.Case("nano_window435.2x8x48x80")
    np.testing.assert_allclose(model.predict(case.clip(), verbose=0), case.expected()["logits"], atol=1e-5)


def test_half_precision_becomes_float32(nano, nano_weights, tmp_path):
    path = tmp_path / "half.pth"
    torch.save(
        {
            key: torch.from_numpy(np.array(value)).to(torch.bfloat16 if value.dtype == np.float32 else torch.int64)
            for key, value in nano.items()
        },
        path,
    )
    convert(path, tmp_path / "out.weights.h5")
    for name, value in datasets(tmp_path / "out.weights.h5").items():
        if not name.endswith("window_size"):
            assert value.dtype == np.float32
            np.testing.assert_allclose(value, datasets(nano_weights)[name], rtol=2**-8)


# --- asked-for changes ------------------------------------------------------------------------------------------


def test_fresh_head(nano_weights):
    model = VideoSwinClassifier(VideoSwinBackbone(ANY, **NANO), 3)
    with pytest.raises(CheckpointError, match="fresh_head=True"):
        videoswin_keras.load_checkpoint(model, nano_weights)
    head = [ops.convert_to_numpy(weight) for weight in model.get_layer("head").weights]
    videoswin_keras.load_checkpoint(model, nano_weights, fresh_head=True)
    for before, weight in zip(head, model.get_layer("head").weights, strict=True):
        np.testing.assert_array_equal(before, ops.convert_to_numpy(weight))
    expected = from_checkpoint(nano_weights).backbone
    for weight, other in zip(model.backbone.weights, expected.weights, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(weight), ops.convert_to_numpy(other))


def test_another_window(nano, nano_weights, tmp_path):
    """Bicubic along each axis, as PyTorch's interpolation does it."""
    window = (6, 5, 5)
    model = VideoSwinClassifier(VideoSwinBackbone(ANY, **{**NANO, "window_size": window}), 10)
    with pytest.raises(CheckpointError, match="resample_window=True"):
        videoswin_keras.load_checkpoint(model, nano_weights)
    videoswin_keras.load_checkpoint(model, nano_weights, resample_window=True)
    key = "backbone.layers.2.blocks.1.attn.relative_position_bias_table"
    grid = torch.from_numpy(nano[key].reshape(7, 5, 9, 4).transpose(3, 0, 1, 2))
    spatial = torch.nn.functional.interpolate(grid, size=(9, 9), mode="bicubic", align_corners=False)
    flat = spatial.reshape(4, 7, 81)
    temporal = (
        torch.nn.functional.interpolate(flat, size=(11, 81), mode="bicubic")
        if flat.ndim == 4
        else (torch.nn.functional.interpolate(flat[:, None], size=(11, 81), mode="bicubic")[:, 0])
    )
    expected = temporal.numpy().reshape(4, -1).T
    table = model.backbone.get_layer("stage3").blocks[1].attention.relative_position_bias_table
    np.testing.assert_allclose(ops.convert_to_numpy(table), expected, atol=1e-5)
    convert(nano_weights, tmp_path / "out.weights.h5", window_size=window)
    model.load_weights(tmp_path / "out.weights.h5")
    np.testing.assert_allclose(ops.convert_to_numpy(table), expected, atol=1e-5)


def test_a_model_from_a_checkpoint_with_changes(nano, tmp_path):
    """Another head, window and number of channels, each by its flag; the same as into a model that is there."""
    path = sources.write_source("official", nano, tmp_path)
    for asked, flag in (
        ({"num_classes": 3}, "fresh_head"),
        ({"window_size": (2, 4, 4)}, "resample_window"),
        ({"input_shape": (None, None, None, 1)}, "adapt_channels"),
    ):
        with pytest.raises(CheckpointError, match=f"{flag}=True"):
            from_checkpoint(path, **asked)
        model = from_checkpoint(path, **asked, **{flag: True})
        arguments = NANO | {key: value for key, value in asked.items() if key == "window_size"}
        shape = asked.get("input_shape", ANY)
        expected = VideoSwinClassifier(VideoSwinBackbone(shape, **arguments), asked.get("num_classes", 10))
        videoswin_keras.load_checkpoint(expected, path, **{flag: True})
        for variable, other in zip(model.backbone.weights, expected.backbone.weights, strict=True):
            np.testing.assert_array_equal(ops.convert_to_numpy(variable), ops.convert_to_numpy(other))
        assert model.output_shape == expected.output_shape
    assert isinstance(from_checkpoint(path, include_top=False), VideoSwinBackbone)
    assert from_checkpoint(path, fresh_head=True).output_shape == (None, 10)


def test_what_is_written_is_read_back(nano, tmp_path, monkeypatch):
    """A disk, or a library, that writes something else."""
    create = h5py.Group.create_dataset

    def wrong(self, name, *arguments, **settings):
        if name is not None and name.endswith("qkv/vars/1"):
            settings["data"] = settings["data"].astype("float16")
        return create(self, name, *arguments, **settings)

    path = sources.write_source("official", nano, tmp_path)
    monkeypatch.setattr(h5py.Group, "create_dataset", wrong)
    with pytest.raises(CheckpointError, match="attention/qkv/vars/1 is another after it was written"):
        convert(path, tmp_path / "out.weights.h5")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_whole_model_of_a_port(nano, tmp_path):
    path = sources.write_source("keras_port", square(nano), tmp_path)
    with zipfile.ZipFile(tmp_path / "port.keras", "w") as archive:
        archive.write(path, "model.weights.h5")
        archive.writestr("config.json", "{}")
    checkpoint = convert(tmp_path / "port.keras", tmp_path / "out.keras", window_size=(4, 4, 4))
    assert checkpoint.format == "keras_port"
    assert repr(checkpoint) == f"Checkpoint(format='keras_port', architecture={checkpoint.architecture!r})"
    with pytest.raises(ValueError, match="is a whole model already"):
        convert(tmp_path / "out.keras", tmp_path / "again.keras")


@pytest.mark.parametrize("channels", [1, 6])
def test_other_channels(channels, nano_weights):
    """Grey clips in one channel, or RGB clips twice over, give what the original gives."""
    model = VideoSwinClassifier(VideoSwinBackbone((None, None, None, channels), **NANO), 10)
    with pytest.raises(CheckpointError, match="adapt_channels=True"):
        videoswin_keras.load_checkpoint(model, nano_weights)
    videoswin_keras.load_checkpoint(model, nano_weights, adapt_channels=True)
    original = from_checkpoint(nano_weights)
    clip = np.random.default_rng(0).normal(size=(1, 4, 32, 32, 1 if channels == 1 else 3)).astype("float32")
    repeats = {1: (clip, np.repeat(clip, 3, axis=-1)), 6: (np.concatenate([clip, clip], axis=-1), clip)}
    ours, theirs = repeats[channels]
    np.testing.assert_allclose(model.predict(ours, verbose=0), original.predict(theirs, verbose=0), atol=1e-5)


def test_weights_argument(nano, tmp_path):
    path = sources.write_source("official", nano, tmp_path)
    arguments = {key: value for key, value in NANO.items() if key != "window_size"}
    model = videoswin_keras.VideoSwinT(ANY, 10, weights=path, window_size=(4, 3, 5), **arguments)
    case = reference.Case("nano_window435.1x6x16x16")
    np.testing.assert_allclose(model.predict(case.clip(), verbose=0), case.expected()["logits"], atol=1e-5)
    features = videoswin_keras.VideoSwinT(
        ANY, include_top=False, pooling="avg", weights=path, window_size=(4, 3, 5), **arguments
    )
    np.testing.assert_allclose(features.predict(case.clip(), verbose=0), case.expected()["pooled"], atol=1e-5)


# --- windows ----------------------------------------------------------------------------------------------------


def test_window_is_told_by_index_and_rows():
    for window in ((8, 7, 7), (16, 7, 7), (4, 3, 5), (8, 12, 12)):
        rows = videoswin_keras.nn.windows.num_relative_positions(window)
        index = videoswin_keras.nn.windows.relative_position_index(window)
        assert window_of_index(index, rows) == window
    # Without an index: the square window, the larger the likelier.
    assert windows_with_rows(2535)[0] == (8, 7, 7)
    assert windows_with_rows(5239)[0] == (16, 7, 7)


def test_an_index_of_another_order_is_refused(nano):
    """One older port numbers the pairs of unequal windows wrongly: with its tables our outputs would differ."""
    key = "backbone.layers.0.blocks.0.attn.relative_position_index"
    with pytest.raises(CheckpointError, match="is not that of a Video Swin window"):
        recognise({**nano, key: nano[key].T.copy()})


# --- errors -----------------------------------------------------------------------------------------------------


def damaged(state, kind):
    state = dict(state)
    key = next(key for key in state if key.endswith(("fc1.weight", "mlp.0.weight", "fc1/vars/0")))
    if kind == "missing":
        del state[key]
    elif kind == "unexpected":
        state[f"{key}_extra"] = np.zeros((3, 4), "float32")
    else:
        state[key] = state[key][:-1]
    return state


@pytest.mark.parametrize("kind", ["missing", "unexpected", "misshapen"])
@pytest.mark.parametrize("name", sources.SOURCES)
def test_wrong_keys_are_listed(name, kind, nano, tmp_path):
    rename, filename, write = sources.SOURCES[name]
    is_port = name == "keras_port"
    write(damaged(rename(square(nano) if is_port else nano), kind), tmp_path / filename)
    window = (4, 4, 4) if is_port else None  # the ports do not save theirs
    with pytest.raises(CheckpointError, match=f"1 {kind}:") as error:
        convert(tmp_path / filename, tmp_path / "out.weights.h5", window_size=window)
    assert "extra" in str(error.value) or "mlp.fc1.weight" in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == [filename]


@pytest.mark.parametrize("name", sources.SOURCES)
def test_truncated_files(name, nano, tmp_path):
    path = sources.write_source(name, nano, tmp_path)
    content = path.read_bytes()
    for size in (len(content) // 2, len(content) - 1000, 40):
        path.write_bytes(content[:size])
        with pytest.raises(CheckpointError, match=path.name):
            convert(path, tmp_path / "out.weights.h5")
    assert [path.name for path in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["x.pth", "x.pdparams", "x.weights.h5", "x.safetensors", "x.keras"])
@pytest.mark.parametrize("content", [b"", b"hello, this is text and no checkpoint", b"\x89PNG\r\n\x1a\n" + bytes(100)])
def test_files_that_are_no_checkpoints(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name):
        convert(tmp_path / name, tmp_path / "out.weights.h5")
    assert not (tmp_path / "out.weights.h5").exists()


class Hostile:
    """Unpickling it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("name", ["x.pth", "legacy.pth", "x.pdparams", "plain_pickle.pth"])
def test_hostile_pickles_are_refused(name, nano, tmp_path):
    state = {**nano, "backbone.norm.weight": Hostile(tmp_path / "executed")}
    if name in ("x.pth", "legacy.pth"):
        state = {k: torch.from_numpy(np.array(v)) if isinstance(v, np.ndarray) else v for k, v in state.items()}
    if name.endswith(".pdparams") or name.startswith("plain"):
        (tmp_path / name).write_bytes(pickle.dumps(state))
    else:
        torch.save({"state_dict": state}, tmp_path / name, _use_new_zipfile_serialization=name == "x.pth")
    with pytest.raises(CheckpointError, match=r"was refused|a pickle, and not of PyTorch"):
        convert(tmp_path / name, tmp_path / "out.weights.h5")
    assert [path.name for path in tmp_path.iterdir()] == [name]


class Made:
    """Unpickling it calls a function with arguments of a choice."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "value",
    [
        Made(np.ndarray, (3,), np.dtype("O"), bytes(24)),  # pointers to nowhere
        Made(np.dtype, "O"),
        Made(np.dtype, [("a", "f4"), ("b", "O")]),
        np.array([None, 1], object),
        np.array(["text"]),
        np.float32(1),
    ],
    ids=["pointers", "objects", "records", "array_of_objects", "text", "scalar"],
)
def test_pickles_of_other_arrays_are_refused(value, nano, tmp_path):
    (tmp_path / "x.pdparams").write_bytes(pickle.dumps({**sources.as_paddlevideo(nano), "head.fc.bias": value}))
    with pytest.raises(CheckpointError, match=r"x\.pdparams"):
        files.read(tmp_path / "x.pdparams")


@pytest.mark.parametrize("protocol", range(2, 6))
def test_pickles_of_every_protocol(protocol, tmp_path):
    arrays = {
        "floats": np.arange(6, dtype=">f4").reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "integers": np.arange(4),
        "empty": np.zeros((0, 2), "float32"),
        "scalar": np.array(2.5, "float32"),
    }
    (tmp_path / "x.pdparams").write_bytes(pickle.dumps(arrays, protocol))
    for name, value in files.read(tmp_path / "x.pdparams").items():
        np.testing.assert_array_equal(value, arrays[name])


def test_hdf5_that_points_elsewhere_or_claims_too_much(tmp_path):
    (tmp_path / "secret").write_bytes(np.arange(4, dtype="float32").tobytes())
    with h5py.File(tmp_path / "external.weights.h5", "w") as file:
        file.create_dataset("a", (4,), "float32", external=[(str(tmp_path / "secret"), 0, 16)])
    with h5py.File(tmp_path / "virtual.weights.h5", "w") as file:
        layout = h5py.VirtualLayout((4,), "float32")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "a", (4,))
        file.create_virtual_dataset("a", layout)
    with h5py.File(tmp_path / "bomb.weights.h5", "w") as file:
        file.create_dataset("a", (2**28,), "float32", chunks=(2**20,))  # a gigabyte that was never written
    for name in ("external", "virtual", "bomb"):
        with pytest.raises(CheckpointError, match="was refused"):
            files.read(tmp_path / f"{name}.weights.h5")


def test_values_that_are_no_numbers(nano, tmp_path):
    broken = np.array(nano["backbone.norm.weight"])
    broken[3] = np.nan
    sources.write_torch({**nano, "backbone.norm.weight": broken}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"1 not finite.*\n  backbone\.norm\.weight"):
        convert(tmp_path / "x.pth", tmp_path / "out.weights.h5")
    assert not (tmp_path / "out.weights.h5").exists()


def test_a_whole_pytorch_model(tmp_path):
    torch.save(torch.nn.Linear(2, 3), tmp_path / "model.pth")
    with pytest.raises(
        CheckpointError, match=r"asks for torch\.nn\.modules\.linear\.Linear.*save `model\.state_dict\(\)`"
    ):
        files.read(tmp_path / "model.pth")


@pytest.mark.parametrize("wrong", [{"channels": 0}, {"window_size": (0, 7, 7)}])
def test_adaptations_that_make_no_sense(wrong, nano_weights, tmp_path):
    with pytest.raises(ValueError, match=r"positive|at least 1"):
        convert(nano_weights, tmp_path / "out.weights.h5", **wrong)


def test_other_checkpoints(tmp_path):
    torch.save({"conv1.weight": torch.zeros(3), "fc.bias": torch.zeros(2)}, tmp_path / "resnet.pth")
    with pytest.raises(CheckpointError, match="Not a Video Swin checkpoint of a known format"):
        convert(tmp_path / "resnet.pth", tmp_path / "out.weights.h5")
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    with pytest.raises(CheckpointError, match="holds a Tensor"):
        convert(tmp_path / "tensor.pth", tmp_path / "out.weights.h5")
    torch.save({"state_dict": {"a": torch.zeros(1), "b": 3}}, tmp_path / "mixed.pth")
    with pytest.raises(CheckpointError, match=r"b \(int\)"):
        convert(tmp_path / "mixed.pth", tmp_path / "out.weights.h5")
    with zipfile.ZipFile(tmp_path / "archive.pth", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    with pytest.raises(CheckpointError, match=r"archive\.pth"):
        files.read(tmp_path / "archive.pth")


def test_paths(nano_weights, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no weights file at"):
        convert(tmp_path / "absent.pth", tmp_path / "out.weights.h5")
    with pytest.raises(FileNotFoundError, match="is a folder, not a checkpoint"):
        convert(tmp_path, tmp_path / "out.weights.h5")
    with pytest.raises(ValueError, match=r"must end in \.weights\.h5 or \.keras"):
        convert(nano_weights, tmp_path / "out.h5")
    with pytest.raises(FileNotFoundError, match="no folder"):
        convert(nano_weights, tmp_path / "nowhere" / "out.weights.h5")


def test_a_failed_conversion_leaves_the_old_output(nano, tmp_path):
    (tmp_path / "out.weights.h5").write_bytes(b"precious")
    sources.write_torch(damaged(nano, "missing"), tmp_path / "bad.pth")
    with pytest.raises(CheckpointError):
        convert(tmp_path / "bad.pth", tmp_path / "out.weights.h5")
    assert (tmp_path / "out.weights.h5").read_bytes() == b"precious"


def test_a_failed_load_changes_nothing(nano, tmp_path):
    sources.write_torch(damaged(nano, "misshapen"), tmp_path / "bad.pth")
    model = VideoSwinClassifier(VideoSwinBackbone(ANY, **NANO), 10)
    before = model.get_weights()
    with pytest.raises(CheckpointError):
        videoswin_keras.load_checkpoint(model, tmp_path / "bad.pth")
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_wrong_models(nano_weights):
    import keras

    with pytest.raises(TypeError, match="VideoSwinBackbone, VideoSwinClassifier or RecurrentVideoSwin"):
        videoswin_keras.load_checkpoint(keras.Sequential([keras.layers.Dense(2)]), nano_weights)
    model = from_checkpoint(nano_weights)
    model.quantize("int8")
    with pytest.raises(ValueError, match="then quantise"):
        videoswin_keras.load_checkpoint(model, nano_weights)
