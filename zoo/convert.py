"""``tools/convert.py`` and ``zoo convert``: weights of a run or of a published file, under other names.

Files of other projects are read without running code from them.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LAYOUTS", "convert", "main"]

log = logging.getLogger(__name__)

LAYOUTS = {
    "timm": "backbone (and classifier) as timm names them: resnet50, convnext_small, ...",
    "detectron2": "backbone as detectron2 names a ResNet, a pickle of arrays for MODEL.WEIGHTS",
    "zoo": "the whole network under this package's names, for weights=FILE",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and convert; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="zoo convert",
        description="Write the weights of a pre-trained or fine-tuned convnet under other names.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="layouts:\n" + "\n".join(f"  {name:<11} {text}" for name, text in LAYOUTS.items()),
    )
    parser.add_argument("source", help="checkpoint of a run (last.ckpt), .safetensors, or a published .pth of SparK")
    parser.add_argument("out", help="file to write: .safetensors, .pth or, for detectron2, .pkl")
    parser.add_argument("--to", choices=sorted(LAYOUTS), default="timm", help="layout of the names (default: timm)")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    arguments = parser.parse_args(argv)
    try:
        count = convert(arguments.source, arguments.out, to=arguments.to, overwrite=arguments.overwrite)
    except (ValueError, OSError) as error:
        parser.exit(1, f"{error}\n")
    parser.exit(0, f"wrote {count} tensors to {arguments.out}\n")


def convert(source: str | Path, out: str | Path, *, to: str = "timm", overwrite: bool = False) -> int:
    """Read weights and write them in another layout, all or nothing.

    Args:
        source: checkpoint, safetensors, or a published file of SparK with or without decoder.
        out: the suffix says the format.
        to: one of ``LAYOUTS``.
        overwrite: replace a file that is there.

    Returns:
        Number of tensors written.

    Raises:
        FileExistsError: ``out`` exists.
        FileNotFoundError: ``source`` does not.
        ValueError: not weights of a convnet, or a suffix that does not fit the layout.
    """
    from zoo.models.spark import remap_upstream, timm_state
    from zoo.training.weights import read_weights

    out = Path(out)
    suffixes = (".pkl",) if to == "detectron2" else (".safetensors", ".pth", ".pt")
    if to not in LAYOUTS or out.suffix not in suffixes:
        raise ValueError(
            f"to, out: found {to!r}, {out.name!r}; expected one of {list(LAYOUTS)}, {' or '.join(suffixes)}"
        )
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out} exists; say --overwrite to replace it")
    state = read_weights(source)
    if to == "zoo":
        return _write(remap_upstream(state), out)
    state = timm_state(state)
    if not any(name in state for name in ("conv1.weight", "stem.0.weight")):
        raise ValueError(f"{source}: holds no ResNet or ConvNeXt, but tensors such as {next(iter(state))!r}")
    if to == "timm":
        return _write(state, out)
    if "conv1.weight" not in state:
        raise ValueError(f"{source}: holds a ConvNeXt; detectron2 has ResNets only")
    return _write_detectron2(state, out)


def _write(state: Mapping[str, Tensor], out: Path) -> int:
    import torch
    from safetensors.torch import save_file

    from zoo.files import atomic_path

    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    with atomic_path(out) as temporary:
        if out.suffix == ".safetensors":
            save_file(tensors, temporary, metadata={"format": "pt"})
        else:
            torch.save(tensors, temporary)
    return len(tensors)


def _write_detectron2(state: Mapping[str, Tensor], out: Path) -> int:
    import pickle
    import re

    from zoo.files import write_bytes

    arrays = {}
    for name, value in state.items():
        if name.startswith("fc."):
            continue
        renamed = name if name.startswith("layer") else f"stem.{name}"
        renamed = re.sub(r"layer(\d)", lambda match: f"res{int(match[1]) + 1}", renamed)
        renamed = re.sub(r"bn(\d)", r"conv\1.norm", renamed)
        renamed = renamed.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
        arrays[renamed] = value.detach().cpu().numpy()
    content = {"model": arrays, "__author__": "voxelzoo", "matching_heuristics": True}
    write_bytes(out, pickle.dumps(content, protocol=4))
    return len(arrays)


if __name__ == "__main__":
    raise SystemExit(main())
