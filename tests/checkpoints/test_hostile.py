"""Files that are broken, or made to do harm: each ends soon, in one CheckpointError that names it."""

import io
import json
import zipfile
from concurrent.futures import ThreadPoolExecutor

import h5py
import keras
import numpy as np
import pytest
import sources

from videoswin_keras import (
    CheckpointError,
    RecurrentVideoSwin,
    VideoSwinBackbone,
    VideoSwinClassifier,
    convert,
    from_checkpoint,
    load_checkpoint,
)
from videoswin_keras.checkpoints import files
from videoswin_keras.checkpoints.formats import recognise
from videoswin_keras.checkpoints.load import open_checkpoint
from videoswin_keras.classification import load_classifier
from videoswin_keras.models.saved import load_model

SMALL = {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2), "window_size": (2, 3, 3)}
ANY = (None, None, None, 3)


def small(classes=3, **settings):
    return VideoSwinClassifier(VideoSwinBackbone(ANY, **SMALL, **settings), classes, **settings)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with `model.keras` and `model.weights.h5` of one small model."""
    folder = tmp_path_factory.mktemp("saved")
    model = small()
    model.save(folder / "model.keras")
    model.save_weights(folder / "model.weights.h5")
    return folder


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_zip(path, content, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, value in content.items():
            archive.writestr(name, value)
    return path


def configured(saved, path, change):
    """A copy of the model whose configuration `change` has altered, or replaced."""
    content = members(saved / "model.keras")
    config = json.loads(content["config.json"])
    config = change(config) or config
    return write_zip(path, content | {"config.json": json.dumps(config)})


def assert_refused(path, match=None):
    """By all that take the file; that of a whole model also where only its weights would be taken, or that works."""
    readers = [load_classifier, load_model] if path.suffix == ".keras" else [load_classifier, from_checkpoint]
    for reader in readers:
        with pytest.raises(CheckpointError, match=match) as error:
            reader(path)
        assert str(path) in str(error.value)
        assert len(str(error.value)) < 1500


# --- archives ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("name", ["model.keras", "model.weights.h5"])
def test_cut_off_files(share, name, saved, tmp_path):
    content = (saved / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(content[: int(share * len(content))])
    assert_refused(path)
    with pytest.raises(CheckpointError, match=str(path)):
        convert(path, tmp_path / "out.weights.h5")
    with pytest.raises(CheckpointError, match=str(path)):
        load_checkpoint(small(), path)
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    "config",
    [
        None, b"", b"no json", b"\xff\xfe{", b"[1, 2]", b"3", b"{}", b"[" * 100_000, b'{"a":' * 100_000,
        b'{"class_name": 3, "config": 4}', b'{"class_name": "function", "config": {}, "module": "keras"}',
        b'{"class_name": ["x"], "config": {}, "registered_name": [1]}', b"null", b"[" * 900 + b"]" * 900,
        b'{"module": "keras", "class_name": "Functional", "config": [1, 2]}',
        b'{"module": "keras", "class_name": "Functional", "config": {"layers": [1]}, "registered_name": "os>exec"}',
        b'{"module": "builtins", "class_name": "__lambda__", "config": {"value": ["4wAA", null, null]}}',
        b'{"module": "keras", "class_name": "Functional", "config": ' + b'{"a":' * 900 + b"1" + b"}" * 901,
    ],
)  # fmt: skip
def test_configurations_that_are_none(config, saved, tmp_path):
    content = members(saved / "model.keras")
    content.pop("config.json")
    path = write_zip(tmp_path / "x.keras", content if config is None else content | {"config.json": config})
    assert_refused(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("window_size", "abc"), ("depths", 3), ("depths", ["a", "b"]), ("depths", None), ("num_heads", [{}, {}]),
        ("mlp_ratio", float("inf")), ("mlp_ratio", float("nan")), ("embed_dim", 8.5), ("embed_dim", -8),
        ("input_shape", "clip"), ("dtype", "text"), ("dtype", {"class_name": "DTypePolicy"}), ("pooling", ["avg"]),
        ("unknown", 1), ("drop_path_rate", "much"),
    ],
)  # fmt: skip
def test_values_of_wrong_types(name, value, saved, tmp_path):
    def change(config):
        config["config"]["backbone"]["config"][name] = value

    assert_refused(configured(saved, tmp_path / "x.keras", change))


def test_archives_that_expand(saved, tmp_path):
    """One member, or many of them that together claim more than there is."""
    content = members(saved / "model.keras")
    one = {"assets/a": bytes(2**25)}
    many = {f"assets/{number}": bytes(2**22) for number in range(40)}
    for extra in (one, many, {"config.json": b" " * 2**25 + content["config.json"]}):
        path = write_zip(tmp_path / "x.keras", content | extra, zipfile.ZIP_DEFLATED)
        assert_refused(path, "claims .* of which the file holds|of more than")
    many = io.BytesIO()
    with h5py.File(many, "w") as file:  # each of sixteen megabytes that were never written
        for number in range(40):
            file.create_dataset(f"layers/a{number}/vars/0", (2**22,), "float32", chunks=(2**20,))
    assert_refused(write_zip(tmp_path / "x.keras", content | {"model.weights.h5": many.getvalue()}), "claims")
    (tmp_path / "x.weights.h5").write_bytes(many.getvalue())
    assert_refused(tmp_path / "x.weights.h5", "claims")


@pytest.mark.parametrize("metadata", [b"", b"null", b"3", b"[]", b"[" * 100_000])
def test_what_keras_says_of_a_file(metadata, saved, tmp_path):
    """Its version and date, which nothing depends on."""
    path = write_zip(tmp_path / "x.keras", members(saved / "model.keras") | {"metadata.json": metadata})
    assert load_model(path).output_shape == (None, 3)


@pytest.mark.parametrize("metadata", ["no json", "[]", "[" * 100_000, '{"name": ["a"], "format": {"b": 1}}'])
def test_what_a_file_says_of_itself(metadata, saved, tmp_path):
    """It is for labels and protocol; a broken one is an error, and not one of Python."""
    write_zip(tmp_path / "x.keras", members(saved / "model.keras") | {"videoswin_keras.json": metadata})
    (tmp_path / "x.weights.h5").write_bytes((saved / "model.weights.h5").read_bytes())
    if len(metadata) < 2**16:
        with h5py.File(tmp_path / "x.weights.h5", "a") as file:
            file.attrs["videoswin_keras"] = metadata
    for path in (tmp_path / "x.keras", tmp_path / "x.weights.h5"):
        for use in (load_classifier, lambda path: convert(path, tmp_path / "out.weights.h5")):
            try:
                use(path)
            except CheckpointError as error:
                assert str(path) in str(error)  # noqa: PT017


# --- sizes ------------------------------------------------------------------------------------------------------


def backbone_of(config):
    return config["config"]["backbone"]["config"]


SIZES = {
    "depths": lambda config: backbone_of(config).update(depths=[10**9, 10**9]),
    "a depth": lambda config: backbone_of(config).update(depths=[1, 2]),
    "embed_dim": lambda config: backbone_of(config).update(embed_dim=10**6),
    "window_size": lambda config: backbone_of(config).update(window_size=[1, 1, 10**12]),
    "mlp_ratio": lambda config: backbone_of(config).update(mlp_ratio=1e12),
    "patch_size": lambda config: backbone_of(config).update(patch_size=[10**5, 10**5, 10**5]),
    "num_heads": lambda config: backbone_of(config).update(num_heads=[10**12, 10**12]),
    "num_classes": lambda config: config["config"].update(num_classes=10**12),
    "a class": lambda config: config["config"].update(num_classes=4),
}


@pytest.mark.parametrize("name", SIZES)
def test_configurations_that_state_more_than_there_is(name, saved, tmp_path, monkeypatch):
    """They would take a terabyte. Little more is made than the file holds."""
    made = []
    add_weight = keras.layers.Layer.add_weight

    def recorded(layer, shape=None, *arguments, **settings):
        made.append(np.prod(shape or (), dtype=float))
        return add_weight(layer, shape, *arguments, **settings)

    monkeypatch.setattr(keras.layers.Layer, "add_weight", recorded)
    assert_refused(configured(saved, tmp_path / "x.keras", SIZES[name]), "states|Keras cannot rebuild the model")
    assert sum(made) < 2**21
    assert keras.layers.Layer.add_weight is recorded


def test_layers_of_keras_around_a_backbone_that_state_more(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(5)])
    model.save(tmp_path / "model.keras")

    def change(config):
        for layer in config["config"]["layers"][1:]:
            layer["config"]["units"] = 10**6  # each alone would be possible

    path = configured(tmp_path, tmp_path / "x.keras", change)
    with pytest.raises(CheckpointError, match=r"x\.keras: its configuration states more than the weights"):
        load_model(path)


def test_a_memory_of_many_clips(tmp_path):
    RecurrentVideoSwin(small(), stages=(2,), num_tokens=2, memory_length=3).save(tmp_path / "model.keras")

    def change(config):
        config["config"]["memory_length"] = 10**9

    assert_refused(configured(tmp_path, tmp_path / "x.keras", change), "a memory of more than 10000 clips")


def test_numbers_in_names_cost_nothing():
    state = recognise(files.read(open_checkpoint("pico_moving_shapes").file)).state
    big = {f"memory{10**15}.tokens": np.zeros((2, 2), "float32"), f"memory{10**15}.memory_length": np.array(3)}
    with pytest.raises(CheckpointError):
        recognise({**state, **big})


# --- HDF5 -------------------------------------------------------------------------------------------------------

KERNEL = "layers/dense/vars/0"
WINDOW = "layers/video_swin_backbone/layers/video_swin_stage/blocks/video_swin_block/attention/vars/window_size"


def replaced(saved, path, name, write):
    """Copies of the weights, and of the model with them, in which `write(file, name)` puts something in one's place."""
    weights = path / "x.weights.h5"
    weights.write_bytes((saved / "model.weights.h5").read_bytes())
    with h5py.File(weights, "a") as file:
        del file[name]
        write(file, name)
    write_zip(path / "x.keras", members(saved / "model.keras") | {"model.weights.h5": weights.read_bytes()})
    return weights, path / "x.keras"


def value(content, dtype=None):
    return lambda file, name: file.create_dataset(name, data=content, dtype=dtype)


ODD = {
    "text": value("abc"),
    "texts": value(["a", "b"], h5py.string_dtype()),
    "records": value(np.zeros((16, 3), [("a", "f4"), ("b", "i4")])),
    "references": lambda file, name: file.create_dataset(name, data=[file.ref], dtype=h5py.ref_dtype),
    "enumerated": value(np.zeros((16, 3), "int8"), h5py.enum_dtype({"a": 0, "b": 1}, "int8")),
    "nothing": value(h5py.Empty("f4")),
    "lists": lambda file, name: file.create_dataset(name, (3,), h5py.vlen_dtype("f4")),
    "arrays": value(np.zeros(16, [("a", "f4", (3,))])),
    "opaque": value(np.zeros((16, 3), "V4")),
    "complex": value(np.zeros((16, 3), "complex64")),
    "one number": value(np.float32(3)),
    "no numbers": value(np.zeros((0, 3), "float32")),
    "six axes": value(np.zeros((1,) * 6, "float32")),
    "a group": lambda file, name: file.create_group(name),
    "a soft link": lambda file, name: file.__setitem__(name, h5py.SoftLink("/layers/dense/vars/1")),
    "a link to itself": lambda file, name: file.__setitem__(name, h5py.SoftLink(f"/{name}")),
    "a link to nothing": lambda file, name: file.__setitem__(name, h5py.SoftLink("/nowhere")),
    "another file": lambda file, name: file.__setitem__(name, h5py.ExternalLink("/etc/passwd", "a")),
    "the root": lambda file, name: file.__setitem__(name, file["/"]),
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_no_weight(name, saved, tmp_path):
    weights, model = replaced(saved, tmp_path, KERNEL, ODD[name])
    assert_refused(weights)
    assert_refused(model)
    for path in (weights, model):
        with pytest.raises(CheckpointError, match=str(path)):
            convert(path, tmp_path / "out.weights.h5")
        with pytest.raises(CheckpointError, match=str(path)):
            load_checkpoint(small(), path)


WINDOWS = {
    "infinite": value(np.array([np.inf, 3, 3], "float32")),
    "not a number": value(np.array([np.nan, 3, 3], "float32")),
    "text": value(["2", "3", "3"], h5py.string_dtype()),
    "too few": value(np.array([2, 3], "int32")),
    "a number": value(np.int32(2)),
    "negative": value(np.array([-2, 3, 3], "int32")),
    "huge": value(np.array([2**62, 2**62, 2**62], "int64")),
    "another": value(np.array([3, 3, 2], "int32")),
    "fractions": value(np.array([2.5, 3, 3], "float64")),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_windows_that_are_none(name, saved, tmp_path):
    weights, model = replaced(saved, tmp_path, WINDOW, WINDOWS[name])
    assert_refused(weights)
    assert_refused(model)


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("backbone.patch_embed.proj.bias", ()), ("backbone.patch_embed.proj.bias", (0,)),
        ("backbone.layers.0.blocks.0.attn.relative_position_bias_table", (7,)),
        ("backbone.layers.0.blocks.0.attn.relative_position_bias_table", ()),
        ("backbone.layers.0.blocks.0.attn.relative_position_bias_table", (0, 0)),
        ("memory1.tokens", ()), ("memory1.memory_length", (2,)), ("backbone.layers.0.blocks.0.mlp.fc1.weight", (0, 0)),
        ("backbone.layers.0.blocks.0.attn.relative_position_index", (3, 3)),
        ("backbone.layers.0.blocks." + "9" * 5000 + ".norm1.weight", (3,)), ("data_preprocessor.mean", (0,)),
    ],
)  # fmt: skip
def test_shapes_that_are_none(key, shape, tmp_path):
    """Of tensors that the recognition looks at."""
    state = recognise(files.read(open_checkpoint("pico_moving_shapes").file)).state
    odd = {**state, key: np.ones(shape, "float32")}
    if "norm1" not in key:  # that all others are missing is another case
        for broken in (odd, {name: value for name, value in odd.items() if name == key or "norm" in name}):
            sources.write_torch(broken, tmp_path / "x.pth")
            with pytest.raises(CheckpointError, match=r"x\.pth"):
                convert(tmp_path / "x.pth", tmp_path / "out.weights.h5")


# --- code -------------------------------------------------------------------------------------------------------


def named(**changes):
    """What puts another object in the place of the head's activation."""

    def change(config):
        config["config"]["activation"] = {"module": "builtins", "class_name": "function", "registered_name": None}
        config["config"]["activation"] |= changes
        for name in [name for name, value in changes.items() if value is ...]:
            del config["config"]["activation"][name]

    return change


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"module": "os", "config": "system"}, "it names os.system"),
        ({"module": "builtins", "class_name": "exec", "config": {}}, "it names builtins.exec"),
        ({"module": "builtins", "config": "layers.Lambda"}, "Lambda"),
        ({"module": "marker_of_import", "class_name": "Layer", "config": {}}, "it names marker_of_import.Layer"),
        ({"module": "keras_hub.layers", "class_name": "Layer", "config": {}}, "it names keras_hub.layers.Layer"),
        ({"module": None, "class_name": "Layer", "config": {}}, "neither Keras's nor registered"),
        ({"module": "keras.layers", "class_name": "Lambda", "config": {"function": "relu"}}, "a layer Lambda"),
        ({"module": "keras", "class_name": "layers.Lambda", "config": {"function": "relu"}}, "a layer Lambda"),
        ({"module": "keras.layers", "class_name": "TFSMLayer", "config": {"filepath": "/tmp"}}, "a layer TFSMLayer"),
        ({"module": "keras.layers", "class_name": "StringLookup", "config": {"vocabulary": "/etc/passwd"}}, "Lookup"),
        ({"class_name": "__lambda__", "config": {"value": ["4wAA", None, None]}}, "it names builtins.__lambda__"),
        ({"class_name": "__typespec__", "config": [], "spec_name": "system", "module": "os"}, "os.__typespec__"),
        ({"class_name": "__numpy__", "config": {"value": 0, "dtype": "V10000000000000"}}, "dtype: V10000000000000"),
        ({"module": ..., "registered_name": "videoswin_keras>Dropout", "class_name": "Lambda"}, "a layer Lambda"),
        (
            {"module": ..., "registered_name": "videoswin_keras>Dropout", "class_name": "Dense"},
            "of which module Dense is",
        ),
        (
            {"module": "keras.src.layers.preprocessing.index_lookup", "class_name": "IndexLookup", "config": {}},
            "a layer IndexLookup",
        ),
        ({"module": "keras.utils", "config": "get_file"}, "Keras cannot rebuild the model"),
    ],
)
def test_what_a_model_may_not_name(changes, match, saved, tmp_path, monkeypatch):
    (tmp_path / "marker_of_import.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    path = configured(saved, tmp_path / "x.keras", named(**changes))

    def refused():
        keras.config.enable_unsafe_deserialization()  # of this thread: as a user may have done for a file of theirs
        assert_refused(path, match)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(refused).result()
    assert not (tmp_path / "imported").exists()


@keras.saving.register_keras_serializable(package="test_hostile")
class Doubled(keras.layers.Layer):
    def call(self, x):
        return 2 * x


@keras.saving.register_keras_serializable(package="test_hostile")
def halved(x):
    return x / 2


def unregistered_loss(y, x):
    return y - x


class Unregistered(keras.layers.Layer):
    pass


def test_layers_of_users(tmp_path):
    """Registered ones work, within any model of Keras and as functions; so do operations on tensors."""
    inputs = keras.Input((3,))
    outputs = keras.layers.Dense(4, activation=halved)(Doubled()(inputs))
    model = keras.Model(inputs, keras.ops.tanh(outputs) + 1)
    model.compile("adam", loss=unregistered_loss)  # which loading passes over
    model.save(tmp_path / "mine.keras")
    x = np.ones((2, 3), "float32")
    np.testing.assert_array_equal(
        load_model(tmp_path / "mine.keras").predict(x, verbose=0), model.predict(x, verbose=0)
    )
    keras.Sequential([keras.Input((3,)), Unregistered()]).save(tmp_path / "theirs.keras")
    with pytest.raises(CheckpointError, match=r"Unregistered.*register_keras_serializable"):
        load_model(tmp_path / "theirs.keras")


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
@pytest.mark.parametrize(
    "kind", ["plain", "int8", "int4", "lora", "bfloat16", "mixed_bfloat16", "memory", "sequential"]
)
def test_what_keras_saves_goes_on_loading(kind, tmp_path):
    model = small(**({"dtype": kind} if "bfloat" in kind else {}))
    clip = np.random.default_rng(0).normal(size=(1, 4, 24, 24, 3)).astype("float32")
    if kind in ("int8", "int4"):
        model.quantize(kind)
    elif kind == "lora":
        model.get_layer("head").enable_lora(2)
    elif kind == "memory":
        model, clip = RecurrentVideoSwin(model, stages=(2,), num_tokens=2, memory_length=3), clip[:, None]
    elif kind == "sequential":
        model = keras.Sequential([model.backbone, keras.layers.GlobalMaxPooling3D(), keras.layers.Dense(2)])
        model.compile("adam", "mse")
    model.save(tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras")
    assert type(loaded) is type(model)
    np.testing.assert_allclose(loaded.predict(clip, verbose=0), model.predict(clip, verbose=0), atol=1e-6)
