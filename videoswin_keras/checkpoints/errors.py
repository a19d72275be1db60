"""The one error of reading, recognising and assigning checkpoints."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, is of no known format, or does not fit the model."""


def mismatch(problems: dict[str, list[str]], advice: str) -> CheckpointError:
    """Returns an error that lists every offending key by kind ("missing", "unexpected", …), then the advice."""
    lines = []
    for kind, keys in problems.items():
        if keys:
            lines.append(f"{len(keys)} {kind}:")
            lines += [f"  {key}" for key in keys]
    return CheckpointError("\n".join(["The checkpoint does not fit.", *lines, advice]))
