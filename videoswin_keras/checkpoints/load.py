"""From the name, address or file of a checkpoint to its values: the one path that every caller takes."""

import errno
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from videoswin_keras.addresses import is_web_address, public_address
from videoswin_keras.backend import is_out_of_memory
from videoswin_keras.checkpoints import files, own, zoo
from videoswin_keras.checkpoints.assign import adapt, assign
from videoswin_keras.checkpoints.download import cache_directory, download, file_name, locked
from videoswin_keras.checkpoints.errors import CheckpointError, reading
from videoswin_keras.checkpoints.formats import Checkpoint, recognise
from videoswin_keras.checkpoints.layout import Architecture
from videoswin_keras.nn import windows

_log = logging.getLogger(__name__)
# What a machine lacks for now, whatever is in a file.
_LACKING = {
    getattr(errno, name, errno.EIO)  # Windows has not all
    for name in ("EIO", "ENOMEM", "ENOSPC", "EDQUOT", "EMFILE", "ENFILE", "EAGAIN", "ENOLCK", "ESTALE", "ETIMEDOUT")
}


def load_checkpoint(
    model: Any,
    source: str | Path,
    fresh_head: bool = False,
    resample_window: bool = False,
    adapt_channels: bool = False,
    key: str | None = None,
) -> None:
    """Loads any published checkpoint, or one of this library's, into a model.

    Format, architecture, window and classes are recognised from keys and shapes. Every key of the checkpoint and
    every weight of the model must be accounted for, unless one of the flags says otherwise; nothing is assigned
    before that is sure. A model without a head takes all but the checkpoint's head.

    Args:
        model: `VideoSwinBackbone`, `VideoSwinClassifier` or `RecurrentVideoSwin`.
        source: Path of a `.pth`, `.pdparams`, `.safetensors`, `.weights.h5` or `.keras` file; or the name of a
            checkpoint of the zoo (`videoswin models` lists them), which is downloaded once; or an http(s) URL, at
            whose end `#sha256=` and 8 or more digits of the file's hash may stand.
        fresh_head: Whether to leave the model's own head as it is, for other classes than the checkpoint's.
        resample_window: Whether to resample the bias tables where the model's window is another.
        adapt_channels: Whether to adapt the patch embedding where the model's clips have other channels.
        key: Which weights to take of a file that holds several: an entry ("state_dict_ema") or the prefix of the keys
            ("teacher"). Default: the only ones, or a moving average of the weights, which the log then says.

    Raises:
        FileNotFoundError: if `source` is neither a file nor in the zoo.
        CheckpointError: if the file cannot be read, is of no known format, or does not fit the model; it lists
            every missing, unexpected and misshapen key.

    Example:

    >>> from videoswin_keras import VideoSwinBackbone, load_checkpoint
    >>> model = VideoSwinBackbone(
    ...     (None, None, None, 3), embed_dim=16, depths=(2, 2, 2, 1), num_heads=(1, 2, 4, 8), window_size=(4, 4, 4)
    ... )
    >>> load_checkpoint(model, "pico_moving_shapes")
    """
    checkpoint = open_checkpoint(source, Architecture.of(model).window_size, key)
    assign(model, checkpoint, fresh_head, resample_window, adapt_channels)


def open_checkpoint(
    source: str | Path, window_size: tuple[int, int, int] | None = None, key: str | None = None
) -> Checkpoint:
    """Reads and recognises the checkpoint at `source`; an image Swin is inflated to `window_size`.

    Raises:
        FileNotFoundError, CheckpointError: as `load_checkpoint`; also if a file that this library wrote was damaged.
    """
    window_size = None if window_size is None else windows.check_sides("window_size", window_size)
    path = locate(source)
    tensors = files.read(path, key)
    with reading(path):
        if key is None:  # all that is in it
            own.check(path, tensors)
        return replace(recognise(tensors, window_size), file=str(path))


def locate(source: str | Path, architecture: str | None = None) -> Path:
    """Returns the file of a checkpoint, after downloading and converting it where that has not been done before.

    Args:
        source: A path, a URL, or a name of the zoo.
        architecture: "tiny", "small", "base" or "large", to complete a name such as "kinetics400".
    """
    text = os.fspath(source)
    if is_web_address(text):
        return _converted(Path(file_name(text)).stem, text, None, {})
    if Path(text).is_file():
        return Path(text)
    zoo.check(source, architecture)
    entry = zoo.find(text, architecture)
    if entry.file is not None:
        return entry.path
    return _converted(entry.name, entry.url, entry.sha256_prefix, {"name": entry.name, "dataset": entry.dataset})


def _converted(name: str, url: str, sha256_prefix: str | None, metadata: dict[str, Any]) -> Path:
    """Returns the converted checkpoint in the cache, downloading and converting it the first time.

    Whenever what is in the cache is not what was written there, that is done anew. An image Swin keeps its tensors: it
    can be inflated to any window, and only the model says to which.
    """
    path = cache_directory() / f"{name}.weights.h5"
    if _is_sound(path):  # before the lock, which a folder that cannot be written to would refuse
        return path
    with locked(path.with_suffix(".lock")):  # a second process waits, and finds the file
        if not _is_sound(path):
            if path.is_file():
                _log.warning("%s is damaged, or was not written by this version: it is downloaded anew", path)
            files.check_reader(file_name(url))
            downloaded = download(url, cache_directory(), sha256_prefix)
            tensors, checkpoint = _opened(downloaded, url)
            metadata = {**metadata, **own.metadata_of(checkpoint)}
            if checkpoint.format.startswith("image_swin"):
                own.write_tensors(tensors, path, metadata)
            else:
                own.write(checkpoint, path, metadata)
            downloaded.unlink()
    return path


def _is_sound(path: Path) -> bool:
    """Whether there is a converted checkpoint with the tensors that were written."""
    if not path.is_file():
        return False
    try:
        with reading(path):
            return own.check(path, files.read(path))
    except CheckpointError as error:
        if _is_for_lack(error):
            raise
        return False


def _opened(downloaded: Path, url: str) -> tuple[dict[str, Any], Checkpoint]:
    """Returns the tensors of a file that was downloaded, and the whole checkpoint that they are.

    Raises:
        CheckpointError: if they are none; then the file is removed, or no later call would come to another.
    """
    try:
        tensors = files.read(downloaded)
        with reading(downloaded):
            checkpoint = recognise(tensors)
            return tensors, checkpoint if checkpoint.format.startswith("image_swin") else adapt(checkpoint)
    except CheckpointError as error:
        if _is_for_lack(error):
            raise
        downloaded.unlink(missing_ok=True)
        raise CheckpointError(
            f"{error}\nIt came from {public_address(url)}, and was removed; another call downloads it anew."
        ) from error


def _is_for_lack(error: BaseException | None) -> bool:
    """Whether an error comes from one that another time may not bring: there was no memory, for example."""
    while error is not None:
        if is_out_of_memory(error) or (isinstance(error, OSError) and error.errno in _LACKING):
            return True
        error = error.__cause__
    return False
