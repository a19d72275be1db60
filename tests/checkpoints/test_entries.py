"""Checkpoints as people and trainers save them: number types, what is around the weights, prefixes, relatives."""

import argparse
import collections
import datetime
import logging
import pickle
import sys
import types
import warnings
import zipfile

import h5py
import keras
import ml_dtypes
import numpy as np
import pytest
import reference
import sources
import torch
from safetensors.numpy import save_file

from videoswin_keras import CheckpointError, RecurrentVideoSwin, VideoSwinBackbone, VideoSwinClassifier, convert
from videoswin_keras.checkpoints import files
from videoswin_keras.checkpoints.assign import adapt
from videoswin_keras.checkpoints.formats import recognise

NANO = {"embed_dim": 24, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8), "window_size": (4, 3, 5)}


@pytest.fixture(scope="module")
def nano():
    return reference.official_state("nano_window435")


def tensors(state):
    return {key: torch.from_numpy(np.array(value)) for key, value in state.items()}


def floating(state, change):
    """Changes the weights, and not the tables of indices."""
    return {key: change(value) if value.dtype == np.float32 else value for key, value in state.items()}


def assert_is(checkpoint, state):
    expected = recognise(state)
    assert checkpoint.architecture == expected.architecture
    assert checkpoint.state.keys() == expected.state.keys()
    for key, value in expected.state.items():
        assert checkpoint.state[key].dtype == np.float32
        np.testing.assert_array_equal(checkpoint.state[key], value, err_msg=key)


# --- number types -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float8_e4m3fn", "float8_e5m2", "float64"])
@pytest.mark.parametrize("container", ["pth", "safetensors"])
def test_every_width_of_floating_numbers_becomes_float32(dtype, container, nano, tmp_path):
    path = tmp_path / f"x.{container}"
    narrow = floating(nano, lambda value: value.astype(getattr(ml_dtypes, dtype, dtype)))
    if container == "pth":
        torch.save(
            {k: v.to(getattr(torch, dtype)) if v.is_floating_point() else v for k, v in tensors(nano).items()}, path
        )
    else:
        save_file({key: np.ascontiguousarray(value) for key, value in narrow.items()}, path)
    expected = {key: narrow[key].astype(value.dtype) for key, value in nano.items()}
    assert_is(convert(path, tmp_path / "out.weights.h5"), expected)


def test_bfloat16_of_paddle(nano, tmp_path):
    """It has no such type in numpy: its numbers arrive as uint16."""
    state = floating(sources.as_paddlevideo(nano), lambda value: value.astype(ml_dtypes.bfloat16).view("uint16"))
    sources.write_pdparams(state, tmp_path / "x.pdparams")
    expected = floating(nano, lambda value: value.astype(ml_dtypes.bfloat16).astype("float32"))
    assert_is(convert(tmp_path / "x.pdparams", tmp_path / "out.weights.h5"), expected)


@pytest.mark.parametrize("ending", [".weights.h5", ".keras"])
def test_bfloat16_of_our_own(ending, tmp_path):
    model = VideoSwinClassifier(VideoSwinBackbone((None, None, None, 3), **NANO, dtype="bfloat16"), 3, dtype="bfloat16")
    path = tmp_path / f"x{ending}"
    (model.save if ending == ".keras" else model.save_weights)(path)
    assert model.weights[0].dtype == "bfloat16"
    checkpoint = convert(path, tmp_path / "out.weights.h5")
    kernel = np.asarray(model.get_layer("head").get_weights()[0])
    np.testing.assert_array_equal(checkpoint.state["cls_head.fc_cls.weight"].T, kernel.astype("float32"))


def test_bfloat16_of_a_model_with_a_memory(tmp_path):
    model = VideoSwinClassifier(VideoSwinBackbone((None, None, None, 3), **NANO, dtype="bfloat16"), 3, dtype="bfloat16")
    model = RecurrentVideoSwin(model, stages=(1,), num_tokens=2, memory_length=3, dtype="bfloat16")
    model.save_weights(tmp_path / "x.weights.h5")
    assert recognise(files.read(tmp_path / "x.weights.h5")).state["memory1.age_scale"].shape == ()


@pytest.mark.parametrize("dtype", ["int8", "uint8", "bool", "int64"])
@pytest.mark.parametrize("container", ["pth", "safetensors"])
def test_weights_that_are_no_floating_numbers_are_refused(dtype, container, nano, tmp_path):
    key = "backbone.layers.1.blocks.0.mlp.fc1.weight"
    path, state = tmp_path / f"x.{container}", {**nano, key: (100 * nano[key]).astype(dtype)}
    (torch.save(tensors(state), path) if container == "pth" else sources.write_safetensors(state, path))
    with pytest.raises(CheckpointError, match=rf"no floating-point numbers: {key} \({dtype}\)"):
        convert(path, tmp_path / "out.weights.h5")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_an_hdf5_of_other_things(tmp_path):
    for name, value in (("text", "abc"), ("records", np.zeros(3, [("a", "f4"), ("b", "i4")]))):
        with h5py.File(tmp_path / f"{name}.weights.h5", "w") as file:
            file["layers/a"] = value
        with pytest.raises(CheckpointError, match=r"layers/a is of .*, which are no numbers"):
            files.read(tmp_path / f"{name}.weights.h5")


# --- what is around the weights ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["model_state_dict", "params", "module", "model", "net", "state_dict.model", "my_own_name", "ema.shadow"],
)
def test_weights_in_an_entry(path, nano, tmp_path):
    content = tensors(nano)
    for name in reversed(path.split(".")):
        content = {name: content, "epoch": 3, "best": np.float32(0.5)}
    content["optimizer"] = {"state": {0: {"exp_avg": torch.zeros(3), "exp_avg_sq": torch.zeros(3)}}}
    torch.save(content, tmp_path / "x.pth")
    assert_is(convert(tmp_path / "x.pth", tmp_path / "out.weights.h5"), nano)


class Executed:
    """Unpickling it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_objects_beside_the_weights_are_passed_over_and_not_run(nano, tmp_path, monkeypatch):
    """As mmengine's message hub, a Namespace of options, a yacs node, numpy's scalars: modules that are not there."""
    module = types.ModuleType("mmengine_like")
    module.HistoryBuffer = type("HistoryBuffer", (collections.UserList,), {"__module__": "mmengine_like"})
    module.Node = type("Node", (dict,), {"__module__": "mmengine_like"})
    monkeypatch.setitem(sys.modules, "mmengine_like", module)
    content = {
        "message_hub": {"log_scalars": {"loss": module.HistoryBuffer([1.0, 2.0])}},
        "cfg": module.Node(lr=0.1, nested=module.Node(a=[1, 2])),
        "args": argparse.Namespace(lr=0.1),
        "time": datetime.datetime(2026, 11, 30),
        "best": np.float64(0.7),
        "counts": collections.Counter("aab"),
        "default": collections.defaultdict(list, a=[1]),
        "evil": Executed(tmp_path / "executed"),
        "state_dict": tensors(nano),
    }
    for name, settings in (("x.pth", {}), ("old.pth", {"_use_new_zipfile_serialization": False})):
        torch.save(content, tmp_path / name, **settings)
    monkeypatch.delitem(sys.modules, "mmengine_like")
    for name in ("x.pth", "old.pth"):
        assert_is(convert(tmp_path / name, tmp_path / "out.weights.h5"), nano)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "function", ["posix.system", "builtins.exec", "torch.hub.load", "torch.load", "subprocess.run"]
)
def test_no_function_that_a_file_names_is_called(function, nano, tmp_path):
    """Anywhere in the file, also as what the weights would be."""
    module, _, name = function.rpartition(".")
    content = b"\x80\x02c" + module.encode() + b"\n" + name.encode() + b"\nX\x01\x00\x00\x00a\x85R."
    torch.save({"state_dict": tensors(nano)}, tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth") as source, zipfile.ZipFile(tmp_path / "y.pth", "w") as target:
        for entry in source.namelist():
            target.writestr(entry, content if entry.endswith("data.pkl") else source.read(entry))
    with pytest.raises(CheckpointError, match=f"it asks for {function}"):
        files.read(tmp_path / "y.pth")


def rewritten(path, change):
    """Replaces the pickle within a file of PyTorch."""
    with zipfile.ZipFile(path) as source:
        entries = {entry: source.read(entry) for entry in source.namelist()}
    with zipfile.ZipFile(path, "w") as target:
        for entry, content in entries.items():
            target.writestr(entry, change(content) if entry.endswith("data.pkl") else content)


def test_what_a_file_may_call_it_cannot_change(nano, tmp_path):
    """A pickle can set attributes of what it names: of PyTorch's functions that would last for the whole process."""
    torch.save({"args": argparse.Namespace(), "state_dict": tensors(nano)}, tmp_path / "x.pth")
    build = b"ctorch._utils\n_rebuild_tensor_v2\n(N}X\x0c\x00\x00\x00__defaults__)stb0"
    rewritten(tmp_path / "x.pth", lambda content: content[:2] + build + content[2:])
    before = torch._utils._rebuild_tensor_v2.__defaults__
    with pytest.raises(CheckpointError):
        files.read(tmp_path / "x.pth")
    assert torch._utils._rebuild_tensor_v2.__defaults__ == before


def test_no_module_is_imported_for_a_name(nano, tmp_path):
    """Not even one of PyTorch's that are imported at the first look."""
    names = [name for name in ("_dynamo", "onnx", "_inductor") if f"torch.{name}" not in sys.modules]
    for name in names:
        torch.save({"args": argparse.Namespace(), "state_dict": tensors(nano)}, tmp_path / "x.pth")
        named = b"ctorch\n" + name.encode() + b"\n0"
        rewritten(tmp_path / "x.pth", lambda content, named=named: content[:2] + named + content[2:])
        files.read(tmp_path / "x.pth")
        assert f"torch.{name}" not in sys.modules


class Loss(torch.nn.Module):
    pass


def test_modules_and_parameters_beside_the_weights(nano, tmp_path):
    """Also in the older format, in which PyTorch keeps the source of modules, and compares it."""
    state = {
        key: torch.nn.Parameter(value) if value.is_floating_point() else value for key, value in tensors(nano).items()
    }
    state["backbone.norm.weight"].note = "an attribute makes another kind of record of it"
    content = {"criterion": Loss(), "args": argparse.Namespace(), "state_dict": collections.defaultdict(list, state)}
    for name, is_zip in (("x.pth", True), ("old.pth", False)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.save(content, tmp_path / name, _use_new_zipfile_serialization=is_zip)
        assert_is(recognise(files.read(tmp_path / name)), nano)


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "bfloat16", "uint16"])
def test_number_types_beside_other_objects(dtype, nano, tmp_path):
    """PyTorch writes some of them in a way of their own."""
    state = tensors(nano)
    key = "backbone.norm.weight"
    state[key] = torch.ones(192, dtype=getattr(torch, dtype))
    torch.save({"state_dict": state, "args": argparse.Namespace()}, tmp_path / "x.pth")
    np.testing.assert_array_equal(files.read(tmp_path / "x.pth")[key], np.ones(192))


def test_other_tensors_are_not_taken_for_the_weights(nano, tmp_path):
    """A discriminator, moments of an optimizer, however large; numbers beside the weights."""
    state = tensors(nano)
    larger = {**state, "more": torch.zeros(3)}
    for others in (
        {"discriminator": {f"conv{number}": torch.zeros(3) for number in range(400)}},
        {"d_optimizer": larger, "momentum": larger, "exp_avg_sq": larger, "opt": {"exp_avg": larger}},
        {"best_acc1": torch.tensor(0.7), "epoch": torch.tensor(3)},
        {"ema": {"decay": torch.tensor(0.99), "updates": torch.tensor(7)}},
    ):
        torch.save({"my_generator": state, **others}, tmp_path / "x.pth")
        assert_is(recognise(files.read(tmp_path / "x.pth")), nano)
    torch.save({"one": state, "other": state | {}}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="several sets of weights, one, other: say which by `key`"):
        files.read(tmp_path / "x.pth")
    assert_is(recognise(files.read(tmp_path / "x.pth", "other")), nano)


def test_entries_that_hold_each_other_cost_nothing(tmp_path):
    level = {"a": torch.zeros(1)}
    for _ in range(3):
        level = {str(number): level for number in range(2000)}
    torch.save(level, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="Not a Video Swin"):
        recognise(files.read(tmp_path / "x.pth"))


def test_a_file_that_claims_much_is_refused(tmp_path):
    torch.save({"patch_embed.proj.weight": torch.zeros(1).expand(10**8)}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="claims 400000000 bytes"):
        files.read(tmp_path / "x.pth")


def test_two_models_are_not_mixed(nano, tmp_path):
    bare = {key.removeprefix("backbone."): value for key, value in nano.items() if key.startswith("backbone.")}
    sources.write_safetensors(nano | bare, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="twice"):
        recognise(files.read(tmp_path / "x.safetensors"))
    prefixed = {f"student.{key}": value for key, value in nano.items()}
    sources.write_safetensors(prefixed | {"cls_head.fc_cls.bias": np.zeros(9, "float32")}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"begin with 'student\.', but for cls_head\.fc_cls\.bias"):
        files.read(tmp_path / "x.safetensors")


def test_averaged_weights_are_taken_and_the_others_can_be(nano, tmp_path, caplog):
    averaged = floating(nano, lambda value: value / 2)
    with_count = {"n_averaged": torch.tensor(7), **{f"module.{k}": v for k, v in tensors(averaged).items()}}
    torch.save({"model": tensors(nano), "model_ema": with_count}, tmp_path / "x.pth")
    with caplog.at_level(logging.WARNING):
        checkpoint = convert(tmp_path / "x.pth", tmp_path / "out.weights.h5")
    assert_is(checkpoint, averaged)
    assert "The weights model_ema were taken; there are others (`key`): model" in caplog.text
    assert_is(recognise(files.read(tmp_path / "x.pth", "model")), nano)
    with pytest.raises(CheckpointError, match="it has no weights called 'other'"):
        files.read(tmp_path / "x.pth", "other")


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model.", "net.", "student.", "encoder.video."]
)
@pytest.mark.parametrize("container", ["pth", "safetensors", "pdparams"])
def test_a_prefix_that_all_keys_share(prefix, container, nano, tmp_path):
    path = tmp_path / f"x.{container}"
    state = sources.as_paddlevideo(nano) if container == "pdparams" else nano
    write = {"pth": sources.write_torch, "safetensors": sources.write_safetensors, "pdparams": sources.write_pdparams}
    write[container]({f"{prefix}{key}": value for key, value in state.items()}, path)
    assert_is(convert(path, tmp_path / "out.weights.h5"), nano)


def test_several_models_in_one_file(nano, tmp_path):
    teacher = floating(nano, lambda value: value / 2)
    both = {f"student.{k}": v for k, v in nano.items()} | {f"teacher.{k}": v for k, v in teacher.items()}
    sources.write_safetensors(both, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"several models, whose keys begin with 'student\.', 'teacher\.'"):
        files.read(tmp_path / "x.safetensors")
    assert_is(recognise(files.read(tmp_path / "x.safetensors", "teacher")), teacher)


@pytest.mark.parametrize("container", ["pth", "pdparams"])
def test_a_backbone_whose_keys_lack_its_name(container, nano, tmp_path):
    bare = {
        key.removeprefix("backbone."): value
        for key, value in (sources.as_paddlevideo(nano) if container == "pdparams" else nano).items()
        if key.startswith("backbone.")
    }
    (sources.write_pdparams if container == "pdparams" else sources.write_torch)(bare, tmp_path / f"x.{container}")
    without_head = {key: value for key, value in nano.items() if key.startswith("backbone.")}
    assert_is(convert(tmp_path / f"x.{container}", tmp_path / "out.weights.h5"), without_head)


def test_what_trainers_add_is_left_out_and_said(nano, tmp_path, caplog):
    extras = {
        "data_preprocessor.mean": np.array([123.675, 116.28, 103.53], "float32").reshape(3, 1, 1, 1),
        "data_preprocessor.std": np.array([58.395, 57.12, 57.375], "float32").reshape(3, 1, 1, 1),
        "ema_backbone_norm_weight": nano["backbone.norm.weight"],
        "cls_head.loss_cls.class_weight": np.ones(10, "float32"),
        "backbone.norm0.weight": np.ones(24, "float32"),
        "backbone.norm0.bias": np.ones(24, "float32"),
    }
    sources.write_torch(nano | extras, tmp_path / "x.pth")
    with caplog.at_level(logging.INFO):
        assert_is(convert(tmp_path / "x.pth", tmp_path / "out.weights.h5"), nano)
    assert all(key in caplog.text for key in extras if not key.endswith("bias"))
    assert "was trained with a" not in caplog.text
    sources.write_torch(nano | {"data_preprocessor.mean": np.zeros(3, "float32")}, tmp_path / "x.pth")
    with caplog.at_level(logging.INFO):
        convert(tmp_path / "x.pth", tmp_path / "out.weights.h5")
    assert "was trained with a mean of [0.0, 0.0, 0.0]" in caplog.text
    recognise(nano | {"data_preprocessor.mean": np.zeros((4, 1, 1, 1), "float32")})


# --- relatives, and what is odd ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        ({"layers.0.blocks.0.attn.logit_scale": (3, 1, 1)}, "a Swin Transformer V2"),
        ({"features.1.0.attn.cpb_mlp.0.weight": (512, 2)}, "a Swin Transformer V2"),
        ({"layers.0.blocks.0.spatial_mlp.weight": (147, 49, 1)}, "a SwinMLP"),
        ({"absolute_pos_embed": (1, 3136, 96)}, "a Swin with absolute position embeddings"),
        ({"layers.0.blocks.0.attn.qkv.weight": (96, 288)}, "an image Swin of PaddlePaddle"),
    ],
)
def test_a_relative_is_named(keys, what):
    image = {"patch_embed.proj.weight": (96, 3, 4, 4), "layers.0.blocks.0.norm1.weight": (96,)}
    state = {key: np.zeros(shape, "float32") for key, shape in (image | keys).items()}
    with pytest.raises(CheckpointError, match=f"The checkpoint is of {what}"):
        recognise(state)


def test_odd_numbers_in_keys_cost_nothing(nano):
    for key in ("backbone.layers.100000000.blocks.0.norm1.weight", "backbone.layers.0.blocks.100000000.norm1.weight"):
        checkpoint = recognise({**nano, key: np.zeros(24, "float32")})
        with pytest.raises(CheckpointError, match="1 unexpected"):
            adapt(checkpoint)


def test_resampled_tables_are_said(caplog):
    state = {
        key: value for key, value in reference.official_state("nano_window435").items() if key.startswith("backbone.")
    }
    image = {key.removeprefix("backbone."): value for key, value in state.items() if "index" not in key}
    image["patch_embed.proj.weight"] = image["patch_embed.proj.weight"][:, :, 0]
    for key in [key for key in image if key.endswith("bias_table")]:
        image[key] = image[key][:25]  # of a window of 3 × 3
    with caplog.at_level(logging.WARNING):
        recognise(image)
    assert "Bias tables of windows of 3 × 3 were resampled to 7 × 7" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "advice"),
    [
        ("x.pth", b"", "it is empty"),
        ("x.pth", b"\n\n<!DOCTYPE html><html>", "a web page.*download the file itself"),
        ("x.keras", b"<?xml version='1.0'?><Error>", "a web page.*download the file itself"),
        ("x.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "git lfs pull"),
        ("x.pth", b"\x08\x07\x12\x07pytorch\x1a\x052.1.0", "an ONNX model.*the checkpoint that it was made of"),
        ("x.pth.gz", b"\x1f\x8b\x08" + bytes(20), "unpack it first"),
        ("x.pth", bytes(257) + b"ustar\x0000", "unpack it first"),
        ("x.pth", b"PK\x03\x04" + bytes(40), "Is the file complete"),
        ("x.pth", b'{"message": "Not Found"}', "starts with"),
        ("x.pdparams", b"<html><body>", "a web page"),
        ("x.pkl", pickle.dumps({"a": [1, 2]}), r"a pickle, and not of PyTorch.*\*\.pdparams"),
    ],
)
def test_what_is_found_in_the_place_of_a_checkpoint(name, content, advice, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name}.*{advice}") as error:
        files.read(tmp_path / name)
    assert "state_dict" not in str(error.value)


def test_programs_and_archives(tmp_path):
    class Doubled(torch.nn.Module):
        def forward(self, x):
            return 2 * x

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(Doubled(), torch.zeros(3)).save(tmp_path / "script.pt")
    with pytest.raises(CheckpointError, match=r"a TorchScript program.*torch\.jit\.load\(path\)\.state_dict\(\)"):
        files.read(tmp_path / "script.pt")
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("folder/model.pth", "")
    with pytest.raises(CheckpointError, match=r"a zip archive of something else \(folder/model\.pth\).*unpack it"):
        files.read(tmp_path / "x.pth")


def test_the_older_format_of_keras(tmp_path):
    """Of a whole model, and of weights alone, as Keras 3 and 2 write it."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(tmp_path / "whole.h5")
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file.attrs["layer_names"] = [b"dense"]
        file["dense/dense/kernel:0"] = np.zeros((3, 2), "float32")
    for name in ("whole.h5", "weights.h5"):
        with pytest.raises(CheckpointError, match=r"older HDF5 format of Keras.*model\.save_weights") as error:
            convert(tmp_path / name, tmp_path / "out.weights.h5")
        assert "\n" not in str(error.value)


def test_pickles_beside_weights_of_paddle(nano, tmp_path):
    (tmp_path / "x.pdparams").write_bytes(pickle.dumps({**sources.as_paddlevideo(nano), "args": argparse.Namespace()}))
    with pytest.raises(CheckpointError, match=r"it asks for argparse\.Namespace"):
        files.read(tmp_path / "x.pdparams")
