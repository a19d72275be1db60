"""`videoswin`: one verb per file; each parses, then calls the library."""

import argparse
import gc
import importlib
import os
import sys

from videoswin_keras import __version__, optional
from videoswin_keras.backend import choose_backend, choose_tensorflow_products

VERBS = ("classify", "stream", "convert", "export", "models", "demo")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 0 done, 1 some inputs failed, 2 wrong use or nothing done."""
    parser = argparse.ArgumentParser(
        prog="videoswin",
        description="Video Swin Transformer in Keras 3.",
        epilog="KERAS_BACKEND chooses the backend: torch, jax or tensorflow.",
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    for name in VERBS:
        module = importlib.import_module(f"videoswin_keras.cli.{name}")
        verb = verbs.add_parser(
            name,
            help=module.HELP,
            description=module.HELP,
            epilog=module.EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(verb)
        verb.set_defaults(run=module.run, needs=module.NEEDS)
    options = parser.parse_args(arguments)
    if options.version:
        print(__version__)
        return 0
    if options.verb is None:
        parser.print_help()
        return 2
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a name that the console cannot show is no reason to stop
    try:
        if options.needs is not None:
            _prepare(f"videoswin {options.verb}", options.needs)
        return options.run(options)
    except BrokenPipeError:  # `… | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("videoswin: stopped.", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError) as error:
        print(f"videoswin: error: {error}", file=sys.stderr)
        return 2


def _prepare(purpose: str, libraries: tuple[str, ...]) -> None:
    """Sees to it that a verb finds what it needs, before it begins."""
    if "keras" not in sys.modules:
        backend = choose_backend()
        if not os.environ.get("KERAS_BACKEND"):
            print(f"Backend: {backend} (KERAS_BACKEND chooses another)", file=sys.stderr)
        os.environ["KERAS_BACKEND"] = backend  # the same in what this starts
        if backend == "tensorflow":
            choose_tensorflow_products()
    optional.check(purpose, libraries)


def command() -> int:
    """`main`, in a process that ends with it."""
    code = main()
    gc.freeze()  # or Python goes through all that was imported before it exits, for more than a second
    return code
