"""The class names of the datasets that the zoo's checkpoints were trained on."""

from importlib import resources


def labels(dataset: str) -> list[str]:
    """Returns the class names of `dataset` in the order of a model's outputs.

    Args:
        dataset: "kinetics400", "kinetics600", "kinetics700", "kinetics710", "something_something_v2" or
            "moving_shapes".

    Raises:
        ValueError: if the dataset is another.

    Example:

    >>> labels("kinetics400")[:2]
    ['abseiling', 'air drumming']
    """
    folder = resources.files("videoswin_keras") / "data" / "labels"
    known = sorted(file.name.removesuffix(".txt") for file in folder.iterdir() if file.name.endswith(".txt"))
    if dataset not in known:
        raise ValueError(f"There are no class names for {dataset!r}. Datasets with class names: {', '.join(known)}.")
    # One name per line; names may hold commas.
    return (folder / f"{dataset}.txt").read_text(encoding="utf-8").splitlines()
