import importlib.util
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from videoswin_keras.checkpoints import zoo
from videoswin_keras.checkpoints.labels import labels
from videoswin_keras.checkpoints.layout import Architecture
from videoswin_keras.checkpoints.load import open_checkpoint
from videoswin_keras.models.variants import SIZES
from videoswin_keras.nn.windows import num_relative_positions

ROOT = Path(__file__).parents[2]
PUBLISHED = [entry for entry in zoo.ENTRIES.values() if entry.file is None]
PICO = "pico_moving_shapes"


def test_every_known_checkpoint_is_there():
    publishers = [entry.format for entry in PUBLISHED]
    assert {name: publishers.count(name) for name in publishers} == {
        "official": 7,
        "mmaction2": 6,
        "torchvision": 4,
        "paddlevideo": 2,
    }
    assert [name for name in zoo.ENTRIES if name not in [entry.name for entry in PUBLISHED]] == [PICO]
    assert all(name == entry.name for name, entry in zoo.ENTRIES.items())


def test_names_in_the_file_are_unique():
    records = json.loads((ROOT / "videoswin_keras/checkpoints/zoo.json").read_text(encoding="utf-8"))["checkpoints"]
    assert len(records) == len({record["name"] for record in records}) == len(zoo.ENTRIES)


@pytest.mark.parametrize(
    ("name", "top1", "top5", "url_ends"),
    [  # from the publishers' own tables
        ("tiny_kinetics400", 78.8, 93.6, "/swin_tiny_patch244_window877_kinetics400_1k.pth"),
        ("base_kinetics400_imagenet22k", 82.7, 95.5, "/swin_base_patch244_window877_kinetics400_22k.pth"),
        ("base_something_something_v2", 69.6, 92.7, "/swin_base_patch244_window1677_sthv2.pth"),
        ("small_kinetics400_torchvision", 79.521, 94.158, "/swin3d_s-da41c237.pth"),
        ("large_kinetics400_mmaction2", 83.46, 95.91, "kinetics400-rgb_20220930-78ad8b11.pth"),
        ("base_kinetics400_paddle", 82.4, None, "/VideoSwin_base_k400.pdparams"),
    ],
)
def test_reported_figures(name, top1, top5, url_ends):
    entry = zoo.ENTRIES[name]
    assert (entry.top1, entry.top5) == (top1, top5)
    assert entry.url.endswith(url_ends)


@pytest.mark.parametrize("entry", PUBLISHED, ids=lambda entry: entry.name)
def test_hash_is_the_one_in_the_file_name(entry):
    # torchvision and mmaction2 end their file names with the first eight digits of the SHA-256; the others do not.
    in_name = re.search(r"-([0-9a-f]{8})\.pth$", entry.url)
    assert entry.sha256_prefix == (in_name[1] if in_name else None)


@pytest.mark.parametrize("entry", PUBLISHED, ids=lambda entry: entry.name)
def test_parameters_are_those_of_the_architecture(entry):
    size = {key: value for key, value in SIZES[entry.architecture].items() if key != "drop_path_rate"}
    shapes = Architecture(**size, window_size=entry.window, num_classes=entry.classes).shapes()
    assert entry.params == sum(math.prod(shape) for shape in shapes.values())


def test_window_and_dataset_agree_with_the_published_file_names():
    for entry in PUBLISHED:
        if entry.format == "official":
            assert f"window{''.join(map(str, entry.window))}_" in entry.url
        dataset = re.search(r"kinetics\d+|sthv2|_k\d+", entry.url.rpartition("/")[2])
        expected = {"sthv2": "something_something_v2", "_k400": "kinetics400", None: "kinetics400"}
        found = dataset and dataset[0]
        assert entry.dataset == expected.get(found, found)


def test_protocols():
    assert {(e.format, e.protocol, e.frames, e.interval, e.frames_per_second, e.clips, e.crops) for e in PUBLISHED} == {
        ("official", "kinetics", 32, 2, None, 4, 3),
        ("official", "kinetics", 32, 2, None, None, None),  # the one of which no accuracy is reported
        ("official", "something_something_v2", 32, None, None, 1, 3),
        ("mmaction2", "kinetics_mmaction2", 32, 2, None, 4, 3),
        ("torchvision", "torchvision", 32, None, 15, 12, 1),
        ("paddlevideo", "kinetics", 32, 2, None, 4, 3),
    }


def test_licences():
    assert {entry.format: entry.licence for entry in zoo.ENTRIES.values()} == {
        "official": "Apache-2.0",
        "mmaction2": "Apache-2.0",
        "torchvision": "BSD-3-Clause",
        "paddlevideo": "Apache-2.0",
        "videoswin_keras": "Apache-2.0",
    }


@pytest.mark.parametrize("name", zoo.ENTRIES)
@pytest.mark.parametrize("with_architecture", [False, True])
def test_every_whole_name_is_found(name, with_architecture):
    architecture = name.split("_")[0] if with_architecture else None
    assert zoo.find(name, architecture).name == name


@pytest.mark.parametrize(
    ("name", "architecture", "found"),
    [
        ("kinetics400", "tiny", "tiny_kinetics400"),
        ("kinetics400", "small", "small_kinetics400"),
        ("kinetics400", "base", "base_kinetics400"),  # ImageNet-1K, though the other is more accurate
        ("kinetics400", "large", "large_kinetics400_mmaction2"),
        ("kinetics400_imagenet1k", "base", "base_kinetics400"),
        ("kinetics400_imagenet22k", "base", "base_kinetics400_imagenet22k"),
        ("kinetics400_imagenet22k", "large", "large_kinetics400_mmaction2"),
        ("kinetics400_imagenet22k_torchvision", "base", "base_kinetics400_imagenet22k_torchvision"),
        ("kinetics400_torchvision", "tiny", "tiny_kinetics400_torchvision"),
        ("w1677_kinetics400_imagenet22k", "base", "base_w1677_kinetics400_imagenet22k"),
        ("kinetics600", "base", "base_kinetics600_imagenet22k"),
        ("kinetics700", "large", "large_kinetics700_mmaction2"),
        ("kinetics710", "small", "small_kinetics710_mmaction2"),
        ("something_something_v2", "base", "base_something_something_v2"),
        ("moving_shapes", "pico", PICO),
    ],
)
def test_short_names(name, architecture, found):
    assert zoo.find(name, architecture).name == found


def test_order_of_preference():
    publishers = ["official", "mmaction2", "torchvision", "paddlevideo", "videoswin_keras"]
    ranks = [publishers.index(entry.format) for entry in zoo.ENTRIES.values()]
    assert ranks == sorted(ranks)


@pytest.mark.parametrize(
    ("name", "architecture", "said"),
    [
        (
            "tiny_kinetics40",
            None,
            ["Did you mean tiny_kinetics400", "`videoswin models` lists all"],
        ),
        ("kinetic400", "tiny", ["Did you mean kinetics400", "`videoswin models` lists all"]),
        ("kinetics400", None, ["Did you mean tiny_kinetics400 or small_kinetics400 or base_kinetics400?"]),
        ("kinetics600", "tiny", ["no checkpoint called 'kinetics600'", "Did you mean kinetics400"]),
        ("kinetics400_None", "base", ["no checkpoint called"]),
        ("base_kinetics400", "tiny", ["of the architecture base, not tiny"]),
        ("kinetics400", "huge", ["no checkpoints of the architecture 'huge'", "base, large, pico, small, tiny"]),
    ],
)
def test_unknown_names_are_explained(name, architecture, said):
    with pytest.raises(ValueError, match=r"no checkpoint|not tiny") as error:
        zoo.find(name, architecture)
    assert sum(entry in str(error.value) for entry in zoo.ENTRIES) <= 4  # three, and what was asked for
    for text in said:
        assert text in str(error.value)


def test_checkpoints_of_other_architectures_are_not_offered():
    with pytest.raises(ValueError, match="There is no checkpoint called") as error:
        zoo.find("kinetics600", "tiny")
    assert "base_" not in str(error.value)


@pytest.mark.parametrize("dataset", sorted({entry.dataset for entry in zoo.ENTRIES.values()}))
def test_there_are_as_many_labels_as_classes(dataset):
    names = labels(dataset)
    assert {len(names)} == {entry.classes for entry in zoo.ENTRIES.values() if entry.dataset == dataset}
    assert len(set(names)) == len(names)
    assert all(name == name.strip() != "" for name in names)


def test_labels_are_in_the_order_of_the_publishers():
    assert labels("kinetics400")[0] == "abseiling"
    assert labels("kinetics400")[399] == "zumba"
    assert labels("something_something_v2")[0] == "Approaching something with your camera"
    assert labels("moving_shapes")[:2] == ["moving left", "moving right"]


def test_names_with_commas_are_whole():
    assert "Failing to put something into something because something does not fit" in labels("something_something_v2")
    assert "Dropping something next to something" in labels("something_something_v2")
    assert any("," in name for name in labels("something_something_v2"))


@pytest.mark.parametrize("dataset", ["imagenet", "", "../labels/kinetics400", "kinetics400.txt"])
def test_unknown_labels_are_explained(dataset):
    with pytest.raises(ValueError, match="kinetics400, kinetics600"):
        labels(dataset)


def test_packaged_model_is_what_the_registry_says():
    entry = zoo.ENTRIES[PICO]
    checkpoint = open_checkpoint(entry.path)
    assert checkpoint.architecture.window_size == entry.window
    assert checkpoint.architecture.num_classes == entry.classes
    assert sum(value.size for value in checkpoint.state.values()) == entry.params
    tables = [len(value) for key, value in checkpoint.state.items() if key.endswith("relative_position_bias_table")]
    assert set(tables) == {num_relative_positions(entry.window)}


def test_packaged_model_has_the_accuracy_of_its_report():
    report = json.loads((ROOT / "videoswin_keras/checkpoints/weights" / f"{PICO}.json").read_text(encoding="utf-8"))
    assert zoo.ENTRIES[PICO].top1 == pytest.approx(100 * report["held_out_accuracy"], abs=0.005)
    assert 100 / 8 < zoo.ENTRIES[PICO].top1 <= 100


def test_accuracy_of_the_packaged_model_is_read_from_its_report(tmp_path, monkeypatch):
    (tmp_path / "zoo.json").write_text((ROOT / "videoswin_keras/checkpoints/zoo.json").read_text(encoding="utf-8"))
    monkeypatch.setattr(zoo, "_FOLDER", tmp_path)
    assert zoo._load()[PICO].top1 is None
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / f"{PICO}.json").write_text('{"held_out_accuracy": 0.96875}')
    assert zoo._load()[PICO].top1 == 96.88


def test_only_packaged_checkpoints_have_a_path():
    assert (
        zoo.ENTRIES[PICO].path.relative_to(ROOT).as_posix() == f"videoswin_keras/checkpoints/weights/{PICO}.weights.h5"
    )
    with pytest.raises(ValueError, match=r"downloaded from https://.*swin3d_t"):
        _ = zoo.ENTRIES["tiny_kinetics400_torchvision"].path


def test_table_shows_every_checkpoint():
    header, *rows = zoo.table().splitlines()
    assert header.split() == ["name", "architecture", "dataset", "classes", "window", "top-1", "params", "source"]
    assert [row.split()[0] for row in rows] == list(zoo.ENTRIES)
    assert rows[0].split() == [
        "tiny_kinetics400",
        "tiny",
        "kinetics400",
        "400",
        "8×7×7",
        "78.8",
        "28.2",
        "M",
        "official",
    ]
    for row, entry in zip(rows, zoo.ENTRIES.values(), strict=True):
        assert row[header.index("dataset") :].startswith(f"{entry.dataset} ")
        assert row[header.index("source") :] == entry.format


def test_model_zoo_shows_every_checkpoint():
    text = zoo.model_zoo_markdown()
    for entry in PUBLISHED:
        (row,) = [line for line in text.splitlines() if line.startswith(f"| `{entry.name}` |")]
        assert row.count("|") == 15
        assert f"]({entry.url}) |" in row
        assert "| not yet measured |" in row
        assert entry.licence in row
        assert (entry.sha256_prefix or "–") in row
    assert "| 77.715 / 93.519 |" in text
    assert "| 84.0 / 96.5 |" in text
    assert f"| `{PICO}` | pico |" in text


def test_model_zoo_shows_what_was_measured(monkeypatch):
    measured = zoo.Measurement(top1=78.7, top5=93.5, videos=19796, version="0.1.0")
    entry = replace(zoo.ENTRIES["tiny_kinetics400"], measured=measured)
    monkeypatch.setitem(zoo.ENTRIES, entry.name, entry)
    (row,) = [line for line in zoo.model_zoo_markdown().splitlines() if line.startswith("| `tiny_kinetics400` |")]
    assert "| 78.8 / 93.6 | 78.7 / 93.5 (19796 videos, 0.1.0) |" in row


def test_measurements_are_read():
    record = {**_record("tiny_kinetics400"), "measured": {"top1": 1.0, "top5": 2.0, "videos": 3, "version": "4"}}
    assert zoo.ZooEntry.of(record).measured == zoo.Measurement(1.0, 2.0, 3, "4")


def _record(name):
    records = json.loads((ROOT / "videoswin_keras/checkpoints/zoo.json").read_text(encoding="utf-8"))["checkpoints"]
    return next(record for record in records if record["name"] == name)


def test_model_zoo_file_is_up_to_date():
    text = (ROOT / "MODEL_ZOO.md").read_text(encoding="utf-8")
    assert text == zoo.model_zoo_markdown(), "run python converters/write_model_zoo.py"


def test_script_checks_and_writes(tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("write_model_zoo", ROOT / "converters" / "write_model_zoo.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    path = tmp_path / "MODEL_ZOO.md"
    assert script.main(["--check"], path) == 1
    path.write_text("stale")
    assert script.main(["--check"], path) == 1
    assert "write_model_zoo.py" in capsys.readouterr().err
    assert path.read_text() == "stale"
    assert script.main([], path) == 0
    assert path.read_text(encoding="utf-8").startswith("# Model zoo\n")
    assert script.main(["--check"], path) == 0
    assert list(tmp_path.iterdir()) == [path]
