"""`videoswin`: one verb per file; each parses, then calls the library."""

import argparse
import difflib
import gc
import importlib
import logging
import math
import os
import sys
from typing import Any, NoReturn

from videoswin_keras import __version__, optional
from videoswin_keras.addresses import without_secrets
from videoswin_keras.backend import OUT_OF_MEMORY, choose_backend, choose_tensorflow_products, is_out_of_memory
from videoswin_keras.checkpoints import zoo
from videoswin_keras.cli import signals, terminal

VERBS = ("classify", "stream", "convert", "export", "models", "demo")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Returns:
        The exit code: 0 done, 1 some inputs failed, 2 wrong use or nothing done, 128 + its number after a signal.
    """
    with terminal.escaped():
        try:
            with signals.heard():
                return perform(arguments)
        except KeyboardInterrupt as stop:
            print("videoswin: stopped.", file=sys.stderr)
            return signals.exit_code(stop)
        except (ValueError, OSError, ImportError) as error:
            message = without_secrets(str(error), sys.argv[1:] if arguments is None else arguments)
            print(f"videoswin: error: {message}", file=sys.stderr)
            return 2
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            print(f"videoswin: error: {OUT_OF_MEMORY}", file=sys.stderr)
            return 2


def perform(arguments: list[str] | None = None) -> int:
    """Does what the command line says, and raises what goes wrong; returns the exit code."""
    parser = Parser(
        prog="videoswin",
        description="Video Swin Transformer in Keras 3.",
        epilog="KERAS_BACKEND chooses the backend: torch, jax or tensorflow.",
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", parser_class=Parser)
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
        verb.set_defaults(run=module.run, needs=module.NEEDS, parser=verb)
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        getattr(options, "parser", parser).error(f"unrecognized arguments: {' '.join(unknown)}")
    if options.version:
        print(__version__)
        return 0
    if options.verb is None:
        parser.print_help()
        return 2
    if (weights := getattr(options, "weights", None)) is not None:
        zoo.check(weights)  # before anything is loaded
    if options.needs is not None:
        _prepare(f"videoswin {options.verb}", options.needs)
    return options.run(options)


class Parser(argparse.ArgumentParser):
    """One that says which option a misspelt one may be."""

    def __init__(self, *arguments: Any, **settings: Any):
        self._names: list[str] = []
        self._given: list[str] = []
        super().__init__(*arguments, **settings)
        self.color = False  # which Python 3.14 would write by escapes

    def add_argument(self, *names: Any, **settings: Any) -> Any:
        self._names += [name for name in names if name.startswith("--")]
        return super().add_argument(*names, **settings)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self._given = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        names = [given.partition("=")[0] for given in self._given]
        wrong = [(name, self._names) for name in names if name.startswith("--")]
        if self.prog == "videoswin":
            wrong += [(name, list(VERBS)) for name in names[:1]]
        for name, known in wrong:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
            if close and not any(other.startswith(name) for other in known):
                message += f"\n{name} is not known. Did you mean {close[0]}?"
        super().error(without_secrets(message, self._given))


def _prepare(purpose: str, libraries: tuple[str, ...]) -> None:
    """Checks that a verb finds the libraries it needs, and sets up its process, before it begins."""
    is_own_process = "keras" not in sys.modules
    if is_own_process:
        backend = choose_backend()
        if not os.environ.get("KERAS_BACKEND"):
            print(f"Backend: {backend} (KERAS_BACKEND chooses another)", file=sys.stderr)
        os.environ["KERAS_BACKEND"] = backend  # the same in what this starts
        if backend == "tensorflow":
            choose_tensorflow_products()
    optional.check(purpose, libraries)
    if is_own_process:
        from videoswin_keras import kernels

        kernels.give_back_after_compilations()


_QUIET = 60.0  # seconds for which a message is not repeated


class _Messages(logging.Formatter):
    """Warnings as lines of this command; what has just been said is not said again."""

    def __init__(self) -> None:
        super().__init__("videoswin: %(message)s")
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        is_new = record.created - self._said.get(message, -math.inf) > _QUIET
        if is_new:
            self._said[message] = record.created
        return is_new


def _listen() -> None:
    """Has the library's warnings printed, and nothing by FFmpeg and OpenCV, whose own lines say nothing to most."""
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET
    messages, handler = _Messages(), logging.StreamHandler()
    handler.setFormatter(messages)
    handler.addFilter(messages.filter)
    logger = logging.getLogger("videoswin_keras")
    logger.addHandler(handler)
    logger.propagate = False


def command() -> int:
    """`main`, in a process that ends with it."""
    terminal.take_over()
    _listen()
    code = main()
    gc.freeze()  # or Python goes through all that was imported before it exits, for more than a second
    return code
