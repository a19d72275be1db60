"""Finds the weights of one model among all that a training run saves: entries of a file, prefixes of keys."""

import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from videoswin_keras.checkpoints.errors import CheckpointError

_log = logging.getLogger(__name__)

_DEPTH = 3  # of entries in entries
_LONGEST = 1000  # characters of a name
# What trainers call a moving average of the weights, and the weights. mmengine swaps the two before it saves: its
# "ema_state_dict" are the weights without averaging.
_AVERAGED = ("params_ema", "model_ema", "ema_model", "state_dict_ema", "ema")
_PLAIN = ("state_dict", "model_state_dict", "model_state", "model", "module", "params", "net", "network", "weights")
_NAMES = (*_AVERAGED, *_PLAIN)
# Entries that have tensors by the names of the weights, and are none.
_NEVER = re.compile(r"(?i)(^|[._])(opt|optim\w*|exp_avg\w*|momentum\w*|grads?|gradients?|adam\w*|sgd|scaler)([._]|$)")
_ANCHORS = ("patch_embed.proj.weight", "features.0.0.weight")  # a model has one of these
_OF_A_MODEL = re.compile(r"(backbone|cls_head|head|patch_embed|layers|features|norm3?)\.")


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
    every = dict(_mappings(content, tensor))
    if not every:
        raise CheckpointError("it holds no tensors")
    is_told = key in every
    if not is_told:
        key = _best(content, every, tensor)
    weights = every[key]  # type: ignore[index]
    wrong = [f"{name} ({_name(value)})" for name, value in weights.items() if not isinstance(value, tensor)]
    if wrong:
        raise CheckpointError(
            f"it was refused: among the weights are things that are no tensors: {', '.join(wrong[:10])}"
        )
    return {_text(name): value for name, value in weights.items()}, is_told


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
            shown = ", ".join(sorted(prefix for prefix in prefixes if prefix)[:10]) or "no prefix"
            raise CheckpointError(f"it has no weights called {key!r}; its keys begin with {shown}")
        return {name.removeprefix(chosen[0]): value for name, value in tensors.items() if name.startswith(chosen[0])}
    if len(prefixes) > 1:
        shown = ", ".join(repr(prefix) for prefix in sorted(prefixes)[:10])
        raise CheckpointError(f"it holds several models, whose keys begin with {shown}: say which by `key`")
    prefix = next(iter(prefixes), "")
    strangers = [name for name in tensors if not name.startswith(prefix) and _OF_A_MODEL.match(name)]
    if strangers:
        raise CheckpointError(f"its keys begin with {prefix!r}, but for {', '.join(strangers[:10])}")
    names = [name.removeprefix(prefix).removeprefix("module.") for name in tensors]
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        raise CheckpointError(
            f"it holds some tensors twice, with and without {prefix or 'module.'}: {', '.join(twice[:10])}"
        )
    return dict(zip(names, tensors.values(), strict=True))


def _best(content: Mapping, every: dict[str, Mapping], tensor: type) -> str:
    """Returns the path of the weights among all mappings that hold tensors."""
    models = {
        path: mapping for path, mapping in every.items() if not _NEVER.search(path) and _is_model(mapping, tensor)
    }
    mostly = {path: m for path, m in every.items() if 2 * sum(isinstance(v, tensor) for v in m.values()) >= len(m)}
    found = models or mostly or every
    ranked = sorted(found, key=_rank)
    first, *others = ranked
    if others and _rank(first) == _rank(others[0]):
        raise CheckpointError(f"it holds several sets of weights, {', '.join(ranked[:10])}: say which by `key`")
    hidden = [name for name, value in content.items() if hasattr(value, "what") and _rank(str(name)) < _rank(first)]
    if hidden:
        raise CheckpointError(f"its entry {hidden[0]} is a {_name(content[hidden[0]])}, no plain mapping of tensors")
    if others and models:
        _log.warning(
            "The weights %s were taken; there are others (`key`): %s.", first or "at the top", ", ".join(others)
        )
    return first


def _is_model(mapping: Mapping, tensor: type) -> bool:
    return any(str(name).endswith(_ANCHORS) and isinstance(value, tensor) for name, value in mapping.items())


def _mappings(
    content: Mapping, tensor: type, path: str = "", depth: int = 0, seen: set[int] | None = None
) -> Iterator[tuple[str, Mapping]]:
    """Yields the mappings that hold tensors, each once, with where they are: "" is the file, "a.b" an entry of a."""
    seen = set() if seen is None else seen
    if id(content) in seen:
        return
    seen.add(id(content))
    if any(isinstance(value, tensor) for value in content.values()):
        yield path, content
    for name, value in content.items():
        if isinstance(value, Mapping) and depth < _DEPTH:
            yield from _mappings(value, tensor, f"{path}.{_text(name)}" if path else _text(name), depth + 1, seen)


def _rank(path: str) -> int:
    return min((_NAMES.index(name) for name in path.split(".") if name in _NAMES), default=len(_NAMES))


def _text(name: Any) -> str:
    """Returns the name of an entry, which is short: names of entries in entries are put together."""
    if not isinstance(name, str | int) or len(str(name)) > _LONGEST:
        raise CheckpointError(f"one of its entries is called by no name, or one of more than {_LONGEST} characters")
    return str(name)


def _name(value: Any) -> str:
    return getattr(value, "what", type(value).__name__)
