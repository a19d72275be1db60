"""Checkpoint files of every published format, made from a state in the official layout.

Each writer renames and transposes by rules of its own, written from the publishers' code; the tests hold the keys
and shapes that come out against the manifests of the real files.
"""

import pickle
import re
from collections import OrderedDict

import h5py
import numpy as np
import torch
from torch_reference import as_torchvision


def as_official(state):
    return dict(state)


def as_mmaction2(state):
    return {key.replace("backbone.norm.", "backbone.norm3."): value for key, value in state.items()}


def as_paddlevideo(state):
    linear = ("qkv.weight", "proj.weight", "fc1.weight", "fc2.weight", "reduction.weight", "fc_cls.weight")
    return {
        key.replace("cls_head.fc_cls", "head.fc"): value.T if key.endswith(linear) and value.ndim == 2 else value
        for key, value in state.items()
    }


def as_keras_port(state):
    """The HDF5 paths of the two older ports, which save a classifier."""
    paths = {}

    def numbered(name, index):
        return f"{name}_{index}" if int(index) else name

    block_parts = {
        "norm1": "layers/layer_normalization",
        "norm2": "layers/layer_normalization_1",
        "attn.qkv": "attn/layers/dense",
        "attn.proj": "attn/layers/dense_1",
        "mlp.fc1": "layers/mlp/fc1",
        "mlp.fc2": "layers/mlp/fc2",
    }
    backbone = "layers/video_swin_backbone/layers"
    embedding = f"{backbone}/video_swin_patching_and_embedding/layers"
    for key, value in state.items():
        if "relative_position_index" in key:
            continue
        module, _, kind = key.rpartition(".")
        position = 0 if kind in ("weight", "relative_position_bias_table") else 1
        if kind == "weight" and value.ndim == 2:
            value = np.swapaxes(value, 0, 1)
        if value.ndim == 5:
            value = np.transpose(value, (2, 3, 4, 1, 0))
        if match := re.match(r"backbone\.layers\.(\d)\.blocks\.(\d+)\.(.+)", module):
            stage = numbered("video_swin_basic_layer", match[1])
            block = numbered("video_swin_transformer_block", match[2])
            part = "attn" if kind == "relative_position_bias_table" else block_parts[match[3]]
            path = f"{backbone}/{stage}/blocks/{block}/{part}"
        elif match := re.match(r"backbone\.layers\.(\d)\.downsample\.(.+)", module):
            path = f"{backbone}/{numbered('video_swin_basic_layer', match[1])}/downsample/{match[2]}"
        else:
            path = {
                "backbone.patch_embed.proj": f"{embedding}/conv3d",
                "backbone.patch_embed.norm": f"{embedding}/layer_normalization",
                "backbone.norm": f"{backbone}/layer_normalization",
                "cls_head.fc_cls": "layers/dense",
            }[module]
        paths[f"{path}/vars/{position}"] = value
    return paths


def as_keras_port_backbone(state):
    return {
        path.replace("layers/video_swin_backbone/", ""): value
        for path, value in as_keras_port(state).items()
        if "video_swin_backbone" in path
    }


def write_torch(state, path, container="state_dict", **kwargs):
    tensors = OrderedDict((key, torch.from_numpy(np.array(value, order="C"))) for key, value in state.items())
    content = {"meta": {"epoch": 30, "seed": 0}, container: tensors, "optimizer": {"state": {}, "param_groups": []}}
    torch.save(content if container else tensors, path, **kwargs)


def write_torch_bare(state, path):
    write_torch(state, path, container=None)


def write_torch_model(state, path):
    write_torch(state, path, container="model")


def write_torch_legacy(state, path):
    write_torch(state, path, _use_new_zipfile_serialization=False)


def write_pdparams(state, path):
    names = {key: f"linear_{index}.w_0" for index, key in enumerate(state)}
    with open(path, "wb") as file:
        pickle.dump({**state, "StructuredToParameterName@@": names}, file, protocol=2)


def write_pdparams_pairs(state, path):
    """Newer PaddlePaddle versions write a tensor as the pair (name, array)."""
    with open(path, "wb") as file:
        pickle.dump({key: (f"{key}_name", value) for key, value in state.items()}, file, protocol=4)


def write_h5(state, path):
    with h5py.File(path, "w") as file:
        for key, value in state.items():
            file[key] = value


def write_safetensors(state, path):
    from safetensors.numpy import save_file

    save_file({key: np.ascontiguousarray(value) for key, value in state.items()}, path)


# name → (renaming, file name, writer)
SOURCES = {
    "official": (as_official, "official.pth", write_torch),
    "official_pre_1.6": (as_official, "legacy.pth", write_torch_legacy),
    "mmaction2": (as_mmaction2, "mmaction2.pth", write_torch),
    "torchvision": (as_torchvision, "torchvision.pth", write_torch_bare),
    "paddlevideo": (as_paddlevideo, "paddle.pdparams", write_pdparams),
    "paddlevideo_pairs": (as_paddlevideo, "paddle_new.pdparams", write_pdparams_pairs),
    "keras_port": (as_keras_port, "port.weights.h5", write_h5),
    "official_safetensors": (as_official, "official.safetensors", write_safetensors),
}


def write_source(name, state, folder):
    """Writes `state` in the format `name` into `folder`; returns the file's path."""
    rename, filename, write = SOURCES[name]
    path = folder / filename
    write(rename(state), path)
    return path
