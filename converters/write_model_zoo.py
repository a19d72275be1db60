"""Writes MODEL_ZOO.md from the registry of checkpoints.

python converters/write_model_zoo.py            writes it
python converters/write_model_zoo.py --check    exits with 1 where it is not what would be written
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from videoswin_keras.atomic import replacing
from videoswin_keras.checkpoints.zoo import model_zoo_markdown

MODEL_ZOO = Path(__file__).resolve().parent.parent / "MODEL_ZOO.md"


def main(arguments: Sequence[str] | None = None, path: Path = MODEL_ZOO) -> int:
    parser = argparse.ArgumentParser(description="Writes MODEL_ZOO.md from the registry of checkpoints.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where the file is stale")
    check = parser.parse_args(arguments).check
    text = model_zoo_markdown()
    if check:
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            return 0
        print(f"{path.name} is stale: run python converters/write_model_zoo.py", file=sys.stderr)
        return 1
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
