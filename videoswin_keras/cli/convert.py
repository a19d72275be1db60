"""`videoswin convert`: any published checkpoint to this library's weights."""

import argparse

HELP = "Convert a checkpoint of any known format, exactly. Format and architecture are recognised."
EXAMPLES = """examples:
  videoswin convert swin_tiny_patch244_window877_kinetics400_1k.pth -o tiny.weights.h5
  videoswin convert base_something_something_v2 -o base.keras --to keras
  videoswin convert swin_tiny_patch4_window7_224.pth -o inflated.weights.h5 --window 16 7 7"""

NEEDS = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="a file, a URL, or a name of the zoo (see `videoswin models`)")
    parser.add_argument("-o", "--output", required=True, help="the file to write: *.weights.h5 or *.keras")
    parser.add_argument("--to", choices=("weights", "keras"), help="what to write (default: by the ending of --output)")
    parser.add_argument(
        "--window",
        type=int,
        nargs=3,
        metavar=("FRAMES", "HEIGHT", "WIDTH"),
        help="resample the bias tables to another window",
    )
    parser.add_argument("--channels", type=int, help="adapt the patch embedding to clips of other channels")
    parser.add_argument(
        "--key", help='which weights to take of a file that holds several: an entry as "model_ema", or a prefix of keys'
    )
    parser.add_argument("--drop-head", action="store_true", help="leave the classification head away")


def run(options: argparse.Namespace) -> int:
    from videoswin_keras.models.conversion import convert

    ending = {"weights": ".weights.h5", "keras": ".keras"}.get(options.to, "")
    if not options.output.endswith(ending):
        raise ValueError(f"--to {options.to} writes *{ending}. Received: --output {options.output}.")
    window = tuple(options.window) if options.window else None
    checkpoint = convert(options.source, options.output, window, options.channels, options.drop_head, options.key)
    print(f"{checkpoint.format}: {checkpoint.architecture.describe()}")
    print(f"{sum(value.size for value in checkpoint.state.values()):,} parameters written to {options.output}")
    return 0
