"""``tools/convert.py`` and ``zoo convert``: weights of a run or of a published file, under other names or as a card.

Files of other projects are read without running code from them.
"""

from __future__ import annotations

import argparse
import importlib.resources
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from zoo.hub import Card

__all__ = ["TARGETS", "convert", "main", "make_card"]

log = logging.getLogger(__name__)

TARGETS = {
    "zoo": "the whole network under this package's names, for weights=FILE; --model says which network",
    "timm": "backbone (and classifier) of a convnet as timm names them: resnet50, convnext_small, ...",
    "detectron2": "backbone as detectron2 names a ResNet, a pickle of arrays for MODEL.WEIGHTS",
    "gaussians": "Gaussians of a scene as .ply or .splat",
}
_SUFFIXES = {"detectron2": (".pkl",), "gaussians": (".ply", ".splat")}


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and convert; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="zoo convert",
        description="Write weights of a run, or of a file that another project published, under other names.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="targets:\n" + "\n".join(f"  {name:<11} {text}" for name, text in TARGETS.items()),
    )
    parser.add_argument("source", help="checkpoint or folder of a run, .safetensors, .ply, or a published checkpoint")
    parser.add_argument("out", nargs="?", help="file to write: .safetensors, .pth; .pkl for detectron2; .ply or .splat")
    parser.add_argument("--to", choices=sorted(TARGETS), default="timm", help="names to write (default: timm)")
    parser.add_argument("--model", help="with --to zoo: the network, one of `zoo list`")
    parser.add_argument("--override", action="append", default=[], help="change to it: channels=16 (repeatable)")
    parser.add_argument("--layout", help="names in the file (default: those of the network's upstream project)")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    parser.add_argument(
        "--card", metavar="NAME", help="make a weight of the zoo, system-variant.tag, of a run's folder"
    )
    parser.add_argument(
        "--metric", action="append", default=[], help="with --card: figure of metrics.json (repeatable)"
    )
    parser.add_argument("--tolerance", type=float, default=0.01, help="with --card: relative (default: 0.01)")
    parser.add_argument(
        "--measured",
        type=Path,
        metavar="RUN",
        help="with --card: take the figures of this run with train=false instead",
    )
    parser.add_argument("--summary", help="with --card: one line (default: the experiment's)")
    parser.add_argument("--license", default="Apache-2.0", help="with --card: of the weights")
    parser.add_argument("--into", type=Path, help="with --card: folder of cards and files (default: the package)")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        if arguments.card:
            card = make_card(
                arguments.source,
                arguments.card,
                metrics=arguments.metric,
                tolerance=arguments.tolerance,
                measured_by=arguments.measured,
                summary=arguments.summary,
                license_name=arguments.license,
                folder=arguments.into,
                overwrite=arguments.overwrite,
            )
            parser.exit(0, f"wrote {card.packaged}, {card.size} bytes; measure it with: {card.command}\n")
        if arguments.out is None:
            parser.error("out: expected a file to write")
        count = convert(
            arguments.source,
            arguments.out,
            to=arguments.to,
            model=arguments.model,
            overrides=arguments.override,
            layout=arguments.layout,
            overwrite=arguments.overwrite,
        )
    except (ValueError, OSError) as error:
        parser.exit(1, f"{error}\n")
    parser.exit(0, f"wrote {count} tensors to {arguments.out}\n")


def convert(
    source: str | Path,
    out: str | Path,
    *,
    to: str = "timm",
    model: str | None = None,
    overrides: Sequence[str] = (),
    layout: str | None = None,
    overwrite: bool = False,
) -> int:
    """Read weights and write them under other names, all or nothing.

    Args:
        source: Checkpoint, safetensors, Gaussians, or a file of an upstream project.
        out: The suffix says the format.
        to: One of ``TARGETS``.
        model: With ``zoo``: the network, one of ``list_models()``. Gaussians and SparK's files need none.
        overrides: Changes to its arguments, ``["channels=16"]``.
        layout: Whose names the file has, see ``zoo.training.upstream_layouts``; None: found out.
        overwrite: Replace a file that is there.

    Returns:
        Number of tensors written.

    Raises:
        FileExistsError: ``out`` exists.
        FileNotFoundError: ``source`` does not.
        ValueError: Not weights of such a network, or a suffix that does not fit the target.
    """
    out = Path(out)
    suffixes = _SUFFIXES.get(to, (".safetensors", ".pth", ".pt"))
    if to not in TARGETS or out.suffix not in suffixes:
        raise ValueError(
            f"to, out: found {to!r}, {out.name!r}; expected one of {list(TARGETS)}, {' or '.join(suffixes)}"
        )
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out} exists; say --overwrite to replace it")
    if to == "zoo":
        return _write(_zoo_state(source, model, overrides, layout), out)
    from zoo.training.weights import read_weights

    state = read_weights(source)
    if to == "gaussians":
        return _write_gaussians(state, out)
    return _write_backbone(state, out, to, source)


def make_card(
    run: str | Path,
    name: str,
    *,
    metrics: Sequence[str],
    tolerance: float = 0.01,
    measured_by: Path | None = None,
    summary: str | None = None,
    license_name: str = "Apache-2.0",
    folder: Path | None = None,
    overwrite: bool = False,
) -> Card:
    """Make a weight of the zoo of a finished run, see `zoo.training.card_export.export_card`.

    Raises:
        FileNotFoundError: The run is not finished.
        FileExistsError: There is a weight of that name.
        ValueError: The run was not started from an experiment, or what `export_card` refuses.
    """
    from zoo.registry import describe_experiment
    from zoo.training.card_export import export_card, find_override

    experiment = find_override(Path(run), "experiment")
    if experiment is None:
        raise ValueError(f"{run}: was started without experiment=NAME, so that no command could measure it again")
    model, text = describe_experiment(experiment)
    return export_card(
        Path(run),
        name,
        experiment=experiment,
        model=find_override(Path(run), "model") or model,
        summary=summary or text,
        metrics=metrics,
        tolerance=tolerance,
        measured_by=measured_by,
        license_name=license_name,
        folder=folder or Path(str(importlib.resources.files("zoo.weights"))),
        overwrite=overwrite,
    )


def _zoo_state(
    source: str | Path, model: str | None, overrides: Sequence[str], layout: str | None
) -> Mapping[str, Tensor]:
    """The state of the network after it has loaded the file; SparK's files say themselves which network it is."""
    from zoo.registry import create_model
    from zoo.training.weights import load_weights

    if model is None and Path(source).suffix not in (".ply", ".splat"):
        from zoo.models.spark import remap_upstream
        from zoo.training.weights import read_weights

        state = remap_upstream(read_weights(source))
        if not any(name.startswith(("encoder.backbone.", "conv1.", "downsample_layers.")) for name in state):
            raise ValueError(f"{source}: holds no convnet of SparK; say which network it is: --model NAME")
        return state
    network = _scene_of(source) if model is None else create_model(model, overrides)
    load_weights(network, source, layout=layout)
    return network.state_dict()


def _scene_of(source: str | Path) -> nn.Module:
    """An empty scene of the degree that a file of Gaussians has."""
    from zoo.models.gaussians.scene import GaussianScene
    from zoo.training.upstream_layouts import read_content

    bands = read_content(source)["rows.shN"].shape[1] + 1
    return GaussianScene(sh_degree=math.isqrt(bands) - 1)


def _write_gaussians(state: Mapping[str, Tensor], out: Path) -> int:
    from zoo.data.formats.gaussian_ply import GaussianParameters, write_gaussian_ply, write_splat

    rows = {name.removeprefix("rows."): value for name, value in state.items() if name.startswith("rows.")}
    if not rows:
        raise ValueError(f"out: {out.name}: the source holds no Gaussians, but tensors such as {next(iter(state))!r}")
    (write_gaussian_ply if out.suffix == ".ply" else write_splat)(out, GaussianParameters(**rows))
    return len(rows)


def _write_backbone(state: Mapping[str, Tensor], out: Path, to: str, source: str | Path) -> int:
    from zoo.models.spark import timm_state

    state = timm_state(state)
    if not any(name in state for name in ("conv1.weight", "stem.0.weight")):
        raise ValueError(f"{source}: holds no ResNet or ConvNeXt, but tensors such as {next(iter(state), None)!r}")
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
