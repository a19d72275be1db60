"""Files that claim more than they hold: refused before memory is taken for it."""

import io
import json
import struct
import tracemalloc
import zipfile
from collections import OrderedDict

import h5py
import numpy as np
import pytest
import reference
import safetensors.numpy
import torch

from videoswin_keras import VideoSwinBackbone, VideoSwinClassifier
from videoswin_keras.checkpoints import files
from videoswin_keras.checkpoints.claims import read_npz
from videoswin_keras.checkpoints.own import read_metadata
from videoswin_keras.models.saved import load_model

MOST = 2**26  # bytes that refusing a small file may take
GIGABYTE = 2**30


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A small whole model's members by name."""
    path = tmp_path_factory.mktemp("whole") / "model.keras"
    settings = {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2), "window_size": (2, 3, 3)}
    VideoSwinClassifier(VideoSwinBackbone((None, None, None, 3), **settings), 3).save(path)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_zip(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def state_smaller(path, name, size):
    """Makes an archive state that a member inflates to `size` bytes."""
    content = bytearray(path.read_bytes())
    entry = content.rindex(name.encode()) - 46  # in the directory at the end
    content[entry + 24 : entry + 28] = struct.pack("<I", size)
    path.write_bytes(content)


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def called(module, name, *arguments):
    return f"c{module}\n{name}\n(".encode() + b"".join(arguments) + b"tR"


def put(number):
    return b"q" + bytes([number])


def got(number):
    return b"h" + bytes([number])


# Each tuple holds the one before it twice.
NESTED = b"(K\x00t" + b"".join(put(i) + b"0(" + got(i) + got(i) + b"t" for i in range(200))
# What takes gigabytes, or for ever, in PyTorch's reader or Python's.
PICKLES = {
    "a place far away in the memo": b"}r" + struct.pack("<I", 2**31) + b".",
    "an empty bytearray": b"}" + text("a") + b"\x96" + struct.pack("<Q", 8 * GIGABYTE) + b"s.",
    "bytes that are not there": b"}" + text("a") + b"\x8e" + struct.pack("<Q", 8 * GIGABYTE) + b"s.",
    "a frame that is not there": b"\x95" + struct.pack("<Q", 8 * GIGABYTE) + b"}.",
    "many mappings": b"](" + b"}" * 2**18 + b"e.",
    "nested keys": b"}" + NESTED + b"K\x01s.",
    "a nested member of a set": b"\x8f(" + NESTED + b"\x90.",
    "a type of nested parts": b"}" + text("a") + called("numpy", "dtype", NESTED) + b"s.",
    "a codec of nested parts": b"}" + text("a") + called("_codecs", "encode", text("x"), NESTED) + b"s.",
    "sides of many digits": b"}"
    + text("a")
    + called("numpy.core.multiarray", "_reconstruct")
    + b"(K\x01("
    + b"\x8b"
    + struct.pack("<i", 2**16)
    + b"\x7f" * 2**16
    + put(0)
    + got(0) * 5000
    + b"t"
    + called("numpy", "dtype", text("f4"), b"\x89", b"\x89")
    + b"\x89"
    + text("")
    + b"tbs.",
    "a bytearray of a number": b"}" + text("a") + called("builtins", "bytearray", b"\x8a\x05\0\0\0\0\x02") + b"s.",
    "a tensor of a number": b"}"
    + text("a")
    + called("torch", "Tensor", b"J\xff\xff\xff\x7f", b"J\xff\xff\xff\x7f")
    + b"s.",
}


def assert_refused(read, path, match=None):
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=match) as error:
            read(path)
        assert tracemalloc.get_traced_memory()[1] < MOST
    finally:
        tracemalloc.stop()
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1500


@pytest.mark.parametrize("name", PICKLES)
def test_pickles(name, tmp_path):
    write_zip(tmp_path / "x.pth", {"archive/data.pkl": b"\x80\x04" + PICKLES[name]}, zipfile.ZIP_STORED)
    (tmp_path / "x.pdparams").write_bytes(b"\x80\x04" + PICKLES[name])
    for file in ("x.pth", "x.pdparams"):
        assert_refused(files.read, tmp_path / file, rf"x\.{file[2:]}")


def test_what_trainers_keep_beside_weights_is_no_claim(tmp_path):
    """The losses of many steps, and names of parameters with their places, in a small file."""
    beside = {"losses": [float(step) for step in range(300_000)], ("block", ("attention", 3)): 1}
    torch.save({"state_dict": {"a": torch.ones(3)}, "history": beside}, tmp_path / "x.pth")
    assert list(files.read(tmp_path / "x.pth")) == ["a"]


def test_one_text_for_many_arrays(tmp_path):
    """Each array of a pickle of protocol 2 is made of a text, which others can be made of too."""
    array = b"cnumpy.core.multiarray\n_reconstruct\n(tR(K\x01(J\0\0\x10\0tcnumpy\ndtype\n(X\2\0\0\0u1tR\x89"
    of = called("_codecs", "encode", got(0), text("latin1"))
    entries = b"".join(text(f"a{number}") + array + of + b"tb" for number in range(200))
    (tmp_path / "x.pdparams").write_bytes(b"\x80\x02" + text("a" * 2**20) + put(0) + b"0}(" + entries + b"u.")
    assert_refused(files.read, tmp_path / "x.pdparams", "claims .* of which the file holds")


def test_long_names_of_many_entries(tmp_path):
    torch.save({"a" * 2**20: {str(number): {"b": torch.zeros(1)} for number in range(1000)}}, tmp_path / "x.pth")
    assert_refused(files.read, tmp_path / "x.pth", "more than 1000 characters")


@pytest.mark.parametrize("is_zip", [True, False])
def test_tensors_that_are_larger_than_their_numbers(is_zip, tmp_path):
    base = torch.zeros(2**16)
    for name, tensor in {
        "expanded": torch.zeros(1).expand(10**9),
        "overlapping": base.as_strided((2**14, 2**14), (1, 1)),
        "repeated": {str(number): base.as_strided((2**12, 2**8), (1, 1)) for number in range(100)},
    }.items():
        path = tmp_path / f"{name}.pth"
        torch.save({"weights": tensor, name: tensor}, path, _use_new_zipfile_serialization=is_zip)
        assert_refused(files.read, path, "claims .* of which the file holds")


@pytest.mark.parametrize("is_zip", [True, False])
def test_tensors_beyond_their_numbers(is_zip, tmp_path):
    torch.save({"a": torch.zeros(100)}, tmp_path / "x.pth", _use_new_zipfile_serialization=is_zip)
    content = (tmp_path / "x.pth").read_bytes()
    assert content.count(b"Kd\x85") == 1  # the shape: a hundred, in a tuple
    (tmp_path / "x.pth").write_bytes(content.replace(b"Kd\x85", b"Ke\x85"))
    assert_refused(files.read, tmp_path / "x.pth", "Bad CRC|lies beyond the numbers")


def test_numbers_that_an_older_file_does_not_hold(tmp_path):
    torch.save({"a": torch.zeros(100)}, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    content = (tmp_path / "x.pth").read_bytes()
    (tmp_path / "x.pth").write_bytes(content[:-408] + struct.pack("<Q", 2**40) + content[-400:])
    assert_refused(files.read, tmp_path / "x.pth", "are cut off")


@pytest.mark.parametrize(
    "name", ["metadata.json", "config.json", "model.weights.h5", "assets/a", "videoswin_keras.json"]
)
def test_members_of_a_whole_model(name, whole, tmp_path):
    path = tmp_path / "x.keras"
    write_zip(path, whole | {name: whole.get(name, b"") + b" " * 2**25})
    for read in (load_model, files.read, read_metadata):
        assert_refused(read, path, "claims .* of which the file holds")
    state_smaller(path, name, 100)
    for read in (load_model, files.read, read_metadata):
        assert_refused(read, path, "of another size than stated")


def test_members_of_a_pytorch_file(tmp_path):
    torch.save({"a": torch.zeros(2**23)}, tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth") as archive:
        write_zip(tmp_path / "x.pth", {name: archive.read(name) for name in archive.namelist()})
    assert_refused(files.read, tmp_path / "x.pth", "claims .* of which the file holds")
    with zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("archive/data.pkl", b" " * 2**20)
    assert_refused(files.read, tmp_path / "x.pth", "packed in an unusual way")


def many_that_store_nothing(file):
    for number in range(200):
        file.create_dataset(f"layers/{number}/vars/0", (2**22,), "float32", chunks=(2**20,))


def large_pieces(file):
    file.create_dataset("a", (1,), "float32", maxshape=(None,), chunks=(2**28,))


def one_under_many_names(file):
    file["a"] = np.zeros(2**18, "float32")
    for number in range(100):
        file[f"b{number}"] = file["a"]


def many_groups_in_groups(file):
    group = file
    for _ in range(2000):
        group = group.create_group("a")
    group["a"] = np.zeros(3, "float32")


@pytest.mark.parametrize("write", [many_that_store_nothing, large_pieces, one_under_many_names, many_groups_in_groups])
def test_hdf5(write, whole, tmp_path):
    with h5py.File(tmp_path / "x.weights.h5", "w", libver="latest") as file:
        write(file)
    write_zip(tmp_path / "x.keras", whole | {"model.weights.h5": (tmp_path / "x.weights.h5").read_bytes()})
    for name, read in (("x.weights.h5", files.read), ("x.keras", files.read), ("x.keras", load_model)):
        assert_refused(read, tmp_path / name, r"was refused")


def test_a_safetensors_file_that_goes_on_after_its_tensors(tmp_path):
    """For gigabytes, which a disk need not hold."""
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file({"a": np.zeros(3, "float32")}, path)
    with path.open("ab") as file:
        file.truncate(8 * GIGABYTE)
    assert_refused(files.read, path, "do not end where it does")


@pytest.mark.parametrize("spans", [[(0, 400), (0, 400)], [(0, 2**40)], [(0, 2**63)], [(8, 4)], [(-4, 400)]])
def test_safetensors(spans, tmp_path):
    header = {
        str(number): {"dtype": "F32", "shape": [(end - start) // 4], "data_offsets": [start, end]}
        for number, (start, end) in enumerate(spans)
    }
    content = json.dumps(header).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(content)) + content + bytes(400))
    assert_refused(files.read, tmp_path / "x.safetensors")


def npy(shape, dtype="<f4", content=b""):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue() + content


@pytest.mark.parametrize(
    "content", [npy((10**10,)), npy((10**5, 10**5)), npy((10**10,), "<U0"), npy((-1,)), npy((3,), "|O", b"..."),
                b"no array", bytes(2**25), b""],
    ids=["long", "square", "of nothing", "negative", "objects", "text", "zeros", "empty"],
)  # fmt: skip
def test_saved_states(content, tmp_path):
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        write_zip(tmp_path / "x.npz", {"good.npy": npy((1,), content=bytes(4)), "a.npy": content}, compression)
        assert_refused(read_npz, tmp_path / "x.npz")
    (tmp_path / "x.npz").write_bytes((tmp_path / "x.npz").read_bytes()[:-30])
    assert_refused(read_npz, tmp_path / "x.npz", "no whole .npz file")


def test_saved_states_of_every_kind(tmp_path):
    arrays = {"a": np.arange(6.0).reshape(2, 3).T, "b": np.array(3), "text": np.array("abc"), "none": np.zeros((0, 3))}
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "x.npz", **arrays)
        read = read_npz(tmp_path / "x.npz")
        assert read.keys() == arrays.keys()
        for name, value in arrays.items():
            np.testing.assert_array_equal(read[name], value)
    with pytest.raises(FileNotFoundError):
        read_npz(tmp_path / "absent.npz")


# --- honest files -----------------------------------------------------------------------------------------------


def test_tensors_that_share_their_numbers(tmp_path):
    """Tied weights, a moving average that is the weights themselves, and parts of one long tensor."""
    state = reference.official_state("nano_window435")
    flat = torch.from_numpy(np.concatenate([value.astype("float32").ravel() for value in state.values()]))
    parts, start = {}, 0
    for key, value in state.items():
        parts[key] = flat[start : start + value.size].reshape(value.shape)
        start += value.size
    for is_zip in (True, False):
        torch.save(
            {"model": parts, "ema": OrderedDict(parts), "head": parts["backbone.norm.weight"]},
            tmp_path / "x.pth",
            _use_new_zipfile_serialization=is_zip,
        )
        for key in ("model", "ema"):
            read = files.read(tmp_path / "x.pth", key)
            assert read.keys() == state.keys()
            for name, value in state.items():
                np.testing.assert_array_equal(read[name], value.astype("float32"))


def test_files_without_check_sums_and_of_the_other_byte_order(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.arange(3.0)}, tmp_path / "x.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    np.testing.assert_array_equal(files.read(tmp_path / "x.pth")["a"], [0, 1, 2])
    torch.save({"a": torch.arange(3.0)}, tmp_path / "y.pth")
    with zipfile.ZipFile(tmp_path / "y.pth") as archive:
        root = next(name for name in archive.namelist() if name.endswith("data.pkl")).removesuffix("data.pkl")
        content = {name: archive.read(name) for name in archive.namelist()}
    content |= {f"{root}byteorder": b"big", f"{root}data/0": np.arange(3, dtype=">f4").tobytes()}
    write_zip(tmp_path / "y.pth", content, zipfile.ZIP_STORED)
    np.testing.assert_array_equal(files.read(tmp_path / "y.pth")["a"], [0, 1, 2])


def test_pairs_of_python_2(tmp_path):
    """Its pickles make an ordered dictionary of pairs."""
    torch.save({"a": torch.arange(3.0)}, tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth") as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in content if name.endswith("data.pkl"))
    tensor = content[name][content[name].index(b"ctorch") : -2]  # without the end of the dictionary and of all
    pairs = called("collections", "OrderedDict", b"](](" + text("a") + tensor + b"ee")
    write_zip(tmp_path / "x.pth", content | {name: b"\x80\x02" + pairs + b"."}, zipfile.ZIP_STORED)
    np.testing.assert_array_equal(files.read(tmp_path / "x.pth")["a"], [0, 1, 2])
