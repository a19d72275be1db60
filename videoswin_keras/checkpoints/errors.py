"""The one error of reading, recognising and assigning checkpoints."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from videoswin_keras.backend import OUT_OF_MEMORY, is_out_of_memory


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, is of no known format, or does not fit the model."""


class OlderPortError(CheckpointError):
    """A whole model of one of the older Keras ports, of which only the weights can be taken."""


def mismatch(problems: dict[str, list[str]], advice: str, file: str = "") -> CheckpointError:
    """Returns an error that lists every offending key by kind ("missing", "unexpected", …), then the advice."""
    lines = [f"The checkpoint {file} does not fit." if file else "The checkpoint does not fit."]
    for kind, keys in problems.items():
        if keys:
            lines.append(f"{len(keys)} {kind}:")
            lines += [f"  {key}" for key in keys]
    return CheckpointError("\n".join([*lines, advice]))


@contextlib.contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Makes one CheckpointError, which names the file, of whatever its content leads to: it can fail anywhere.

    Raises:
        CheckpointError: in the place of every error but those that are not the content's fault.
    """
    try:
        yield
    except CheckpointError as error:
        raise type(error)(f"{path}: {_sentence(str(error))}") from error
    except (ImportError, FileNotFoundError, PermissionError):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise CheckpointError(f"{path} cannot be loaded: {OUT_OF_MEMORY}") from error
        reason = first_line(error)
        raise CheckpointError(f"{path} is not a readable checkpoint: {reason} Is the file complete?") from error


def first_line(error: Exception) -> str:
    """Returns the first line of what an error says, at most 300 characters, as a sentence."""
    return _sentence((str(error).strip() or type(error).__name__).splitlines()[0][:300])


def _sentence(text: str) -> str:
    return text if text.endswith((".", "?", "!")) else text + "."
