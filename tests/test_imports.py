"""Imports point one way, so that every part can be read without those above it."""

import ast
import graphlib
from pathlib import Path

import pytest

import videoswin_keras

PACKAGE = Path(videoswin_keras.__file__).parent
# A module may import from its own place and from those before it.
ORDER = (
    "atomic",
    "text",
    "addresses",
    "web",
    "progress",
    "optional",
    "backend",
    "prefetch",
    "kernels",
    "nn",
    "video",
    "checkpoints",
    "export",
    "models",
    "data",
    "training",
    "explanation",
    "export_worker",
    "classification",
    "streaming",
    "cli",
    "__main__",
)
BACKENDS = {"torch", "jax", "tensorflow"}


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def place(parts):
    return ORDER.index(parts[0].removesuffix(".py"))


def test_imports_point_one_way():
    seen = 0
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).parts
        if parts == ("__init__.py",):
            continue
        for name in imported(path):
            if name.startswith("videoswin_keras.") and name != "videoswin_keras.__version__":
                seen += 1
                assert place(name.split(".")[1:]) <= place(parts), f"{path} imports {name}"
    assert seen > 50


def test_backends_are_imported_in_few_places():
    allowed = {
        "export_worker.py": {"tensorflow"},
        "kernels/jax.py": {"jax"},
        "kernels/tensorflow.py": {"tensorflow"},
        "kernels/torch.py": {"torch"},
    }
    for path in PACKAGE.rglob("*.py"):
        names = {name.split(".")[0] for name in imported(path)}
        assert names & BACKENDS <= allowed.get(path.relative_to(PACKAGE).as_posix(), set()), path


def test_no_circle_of_imports():
    """Not even one that is hidden in functions."""
    files = {module_name(path): path for path in PACKAGE.rglob("*.py")}
    graph = {}
    for name, path in files.items():
        targets = {target if target in files else target.rpartition(".")[0] for target in imported(path)}
        graph[name] = (targets & files.keys()) - {name, "videoswin_keras"}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) > 50  # raises CycleError, which names a circle


def test_the_package_shows_its_public_names_and_nothing_else():
    names = dir(videoswin_keras)
    later = {"VideoPipeline", "VideoStream", "attention_maps", "classify", "grad_cam"}
    assert names == sorted({*videoswin_keras.__all__, *later, "__version__"})
    assert all(getattr(videoswin_keras, name) is not None for name in names)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        videoswin_keras.nothing  # noqa: B018
