"""`videoswin export`: a model for use without Keras."""

import argparse
from pathlib import Path

HELP = "Write a .keras model as ONNX or as a TensorFlow SavedModel, and check that it gives the same."
EXAMPLES = """examples:
  videoswin export sows.keras -o sows.onnx
  videoswin export sows.keras -o sows_saved_model

A model with a memory becomes one step: clip and state in, outputs and new state out; a stream begins with zeros."""
NEEDS = ()  # what a format needs is checked when it is known

_SIDES = ("batch", "frames", "height", "width", "channels")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a .keras file")
    parser.add_argument("-o", "--output", required=True, help="a file *.onnx, or a folder for a SavedModel")


def run(options: argparse.Namespace) -> int:
    from videoswin_keras.export import export

    if not options.model.endswith(".keras"):
        raise ValueError(
            f"Only .keras models can be exported. Received: {options.model}. Make one of a checkpoint with "
            f"`videoswin convert {options.model} -o model.keras`."
        )
    report = export(Path(options.model), options.output)
    for kind in ("inputs", "outputs"):
        print(f"{kind}:")
        for name, (shape, dtype) in report[kind].items():
            varying = _SIDES if len(shape) == len(_SIDES) else ("batch", *["any"] * len(shape))
            sides = (str(side or varying[axis]) for axis, side in enumerate(shape))
            print(f"  {name} ({', '.join(sides)}) {dtype}")
    for name in ("labels", "protocol"):
        if name in report:
            print(f"{name}: {report[name]}, kept with it")
    if report["computes_in"] != "float32":
        print(f"The model computes in {report['computes_in']}; what was written computes in float32.")
    print(f"It differs from the model by at most {report['difference']:.1e}, over three steps.")
    return 0
