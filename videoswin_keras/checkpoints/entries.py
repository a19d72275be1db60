"""Finds the weights of one model among all that a training run saves: entries of a file, prefixes of keys."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from videoswin_keras.checkpoints.errors import CheckpointError

_log = logging.getLogger(__name__)

_DEPTH = 3  # of entries in entries
# What trainers call a moving average of the weights, and the weights. mmengine swaps the two before it saves: its
# "ema_state_dict" are the weights without averaging.
_AVERAGED = ("params_ema", "model_ema", "ema_model", "state_dict_ema", "ema")
_PLAIN = ("state_dict", "model_state_dict", "model_state", "model", "module", "params", "net", "network", "weights")
_NEVER = ("optim", "scheduler", "lr_sched", "scaler", "amp", "rng", "message_hub", "hook", "loops", "callbacks")
_ANCHORS = ("patch_embed.proj.weight", "features.0.0.weight")  # a model has one of these


def weights_of(content: Any, tensor: type, key: str | None) -> tuple[dict[str, Any], bool]:
    """Returns the mapping from names to tensors in what a file holds, and whether `key` told which.

    Args:
        content: Mappings in mappings.
        tensor: Class of a tensor.
        key: The entry to take, as "model_ema" or "ema.shadow". Default: a moving average of the weights, if there is
            one, else the weights; the log says so where there are both.

    Raises:
        CheckpointError: if there is none, nothing tells which of several is meant, or one holds other things too.
    """
    if not isinstance(content, Mapping):
        raise CheckpointError(f"it holds a {_name(content)}, not a mapping from names to tensors")
    found = dict(_mappings(content, tensor))
    if not found:
        raise CheckpointError("it holds no tensors")
    is_told = key in found
    if not is_told:
        ranked = sorted(found, key=lambda path: (_rank(path), -len(found[path])))
        best = [path for path in ranked if _rank(path) == _rank(ranked[0])]
        if len(best) > 1 and len(found[best[0]]) == len(found[best[1]]):
            raise CheckpointError(f"it holds several sets of weights, {', '.join(best)}: say which by `key`")
        others = [path for path in ranked[1:] if abs(len(found[path]) - len(found[ranked[0]])) <= 2]  # counters count
        if others:
            _log.warning("The weights %s were taken; there are others (`key`): %s.", ranked[0], ", ".join(others))
        key = ranked[0]
    weights = found[key]  # type: ignore[index]
    wrong = [f"{name} ({_name(value)})" for name, value in weights.items() if not isinstance(value, tensor)]
    if wrong:
        raise CheckpointError(
            f"it was refused: among the weights are things that are no tensors: {', '.join(wrong[:10])}"
        )
    return {str(name): value for name, value in weights.items()}, is_told


def one_model(tensors: dict[str, Any], key: str | None) -> dict[str, Any]:
    """Returns tensors without the prefix that the keys of a model share, as "module." or "_orig_mod.student.".

    Args:
        tensors: By name.
        key: The prefix of the model to take, of several; with or without the dot at its end.

    Raises:
        CheckpointError: if there are several models, and `key` names none of them.
    """
    prefixes = {
        name.removesuffix(anchor).removesuffix("backbone.")
        for anchor in _ANCHORS
        for name in tensors
        if name == anchor or name.endswith(f".{anchor}")
    }
    if key is not None:
        chosen = [prefix for prefix in prefixes if prefix and prefix.removesuffix(".") == key.removesuffix(".")]
        if not chosen:
            shown = ", ".join(sorted(prefix for prefix in prefixes if prefix)) or "no prefix"
            raise CheckpointError(f"it has no weights called {key!r}; its keys begin with {shown}")
        return {name.removeprefix(chosen[0]): value for name, value in tensors.items() if name.startswith(chosen[0])}
    if len(prefixes) > 1:
        shown = ", ".join(repr(prefix) for prefix in sorted(prefixes))
        raise CheckpointError(f"it holds several models, whose keys begin with {shown}: say which by `key`")
    prefix = next(iter(prefixes), "")
    names = [name.removeprefix(prefix).removeprefix("module.") for name in tensors]
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        raise CheckpointError(
            f"it holds some tensors twice, with and without {prefix or 'module.'}: {', '.join(twice[:10])}"
        )
    return dict(zip(names, tensors.values(), strict=True))


def _mappings(content: Mapping, tensor: type, path: str = "", depth: int = 0) -> Iterator[tuple[str, Mapping]]:
    """Yields the mappings that are mostly tensors, with where they are: "" is all of the file, "a.b" an entry of a."""
    if 2 * sum(isinstance(value, tensor) for value in content.values()) >= max(len(content), 1):
        yield path, content
        return
    for name, value in content.items():
        if isinstance(value, Mapping) and depth < _DEPTH and not str(name).lower().startswith(_NEVER):
            yield from _mappings(value, tensor, f"{path}.{name}" if path else str(name), depth + 1)


def _rank(path: str) -> int:
    names = (*_AVERAGED, *_PLAIN)
    return min((names.index(name) for name in path.split(".") if name in names), default=len(names))


def _name(value: Any) -> str:
    return getattr(value, "what", type(value).__name__)
