"""The maintainer's script: convert, verify against PyTorch, record."""

import json
from dataclasses import replace
from pathlib import Path

import h5py
import publish
import pytest
import reference
import sources

from videoswin_keras.checkpoints import zoo
from videoswin_keras.checkpoints.errors import CheckpointError

CLIP = (1, 8, 48, 64, 3)


@pytest.fixture
def entry(tmp_path):
    """A checkpoint of torchvision's that lies beside the registry, so that nothing is downloaded."""
    path = sources.write_source("torchvision", reference.official_state("nano_window435"), tmp_path)
    return replace(zoo.find("tiny_kinetics400_torchvision"), file=str(path))


def test_convert_and_verify(entry, tmp_path):
    difference = publish.publish(entry, tmp_path, CLIP)
    assert 0 < difference < publish.TOLERANCE
    with h5py.File(tmp_path / f"{entry.name}.weights.h5") as file:
        metadata = json.loads(file.attrs["videoswin_keras"])
    assert metadata["name"] == entry.name
    assert metadata["format"] == "torchvision"


def test_a_wrong_conversion_is_seen(entry, tmp_path, monkeypatch):
    """One bias table of the written file is changed: the comparison must notice."""
    write_tensors, name = (
        publish.own.write_tensors,
        "layers/video_swin_backbone/layers/video_swin_stage/blocks/{}/vars/0",
    )

    def write_wrongly(tensors, path, metadata):
        table = name.format("video_swin_block/attention")
        write_tensors({**tensors, table: tensors[table][::-1]}, path, metadata)

    monkeypatch.setattr(publish.own, "write_tensors", write_wrongly)
    assert publish.publish(entry, tmp_path, CLIP) > 100 * publish.TOLERANCE


def test_a_damaged_checkpoint_is_refused(entry, tmp_path):
    Path(entry.file).write_bytes(Path(entry.file).read_bytes()[:1000])
    with pytest.raises(CheckpointError):
        publish.publish(entry, tmp_path, CLIP)


def test_record(tmp_path):
    original = Path(zoo.__file__).with_name("zoo.json").read_text()
    path = tmp_path / "zoo.json"
    path.write_text(original)
    publish.record({"tiny_kinetics400": 3.456e-6}, path)
    before, after = json.loads(original)["checkpoints"], json.loads(path.read_text())["checkpoints"]
    assert after[1:] == before[1:]
    verified = after[0].pop("verified")
    assert after[0] == {key: value for key, value in before[0].items() if key != "verified"}
    assert verified["difference"] == 3.5e-6
    assert zoo.ZooEntry.of({**after[0], "verified": verified}).verified.difference == 3.5e-6
