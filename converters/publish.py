"""Converts the checkpoints of the zoo, verifies each against PyTorch, and records what was measured.

    python converters/publish.py --output converted                      # all of them
    python converters/publish.py --output converted tiny_kinetics400     # some

For each: download (once), convert to OUTPUT/NAME.weights.h5, load that file into the Keras model and the publisher's
own values into a live PyTorch model, compare the logits on one random clip of the published size, and write the
largest difference, with the date and this library's version, into `zoo.json`; then MODEL_ZOO.md anew. A checkpoint
whose logits differ by more than 1e-5 of their spread is not recorded, and the exit code is 1. Needs PyTorch and
torchvision.
"""

import argparse
import datetime
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
import torch_reference

from videoswin_keras import __version__, from_checkpoint
from videoswin_keras.atomic import replacing
from videoswin_keras.checkpoints import own, zoo
from videoswin_keras.checkpoints.assign import adapt
from videoswin_keras.checkpoints.download import cache_directory, download
from videoswin_keras.checkpoints.load import open_checkpoint

TOLERANCE = 1e-5
CLIP = (1, 32, 224, 224, 3)


def publish(entry: zoo.ZooEntry, folder: Path, clip_shape: tuple[int, ...] = CLIP) -> float:
    """Converts and verifies one checkpoint; returns the largest difference of a logit, over the logits' spread."""
    source = entry.path if entry.file else download(entry.url, cache_directory(), entry.sha256_prefix)
    checkpoint = adapt(open_checkpoint(source))
    output = folder / f"{entry.name}.weights.h5"
    own.write(checkpoint, output, {"name": entry.name, "dataset": entry.dataset, "format": checkpoint.format})
    clip = np.random.default_rng(0).normal(size=clip_shape).astype("float32")
    with torch.no_grad():
        expected = torch_reference.build(checkpoint)(torch.from_numpy(clip.transpose(0, 4, 1, 2, 3))).numpy()
    logits = from_checkpoint(output).predict(clip, verbose=0)
    return float(np.abs(logits - expected).max() / expected.std())


def record(differences: dict[str, float], path: Path) -> None:
    """Writes what was measured into the registry at `path`, by way of a temporary name."""
    registry = json.loads(path.read_text(encoding="utf-8"))
    for entry in registry["checkpoints"]:
        if entry["name"] in differences:
            entry["verified"] = {
                "difference": float(f"{differences[entry['name']]:.1e}"),
                "date": datetime.date.today().isoformat(),
                "version": __version__,
            }
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(registry, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(zoo.ENTRIES), help="names of the zoo (default: all)")
    parser.add_argument("--output", type=Path, required=True, help="folder for the converted weights")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    differences, failed = {}, []
    for name in options.names:
        try:
            difference = publish(zoo.find(name), options.output)
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: PyTorch's, of keys that do not fit
            failed.append(name)
            print(f"{name}: {error}", file=sys.stderr)
            continue
        print(f"{name}: logits differ by {difference:.1e} of their spread", flush=True)
        if difference > TOLERANCE:
            failed.append(name)
        else:
            differences[name] = difference
    record(differences, Path(zoo.__file__).with_name("zoo.json"))
    subprocess.run([sys.executable, Path(__file__).with_name("write_model_zoo.py")], check=True)
    print(f"{len(differences)} verified, {len(failed)} not: {', '.join(failed) or '–'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
