"""Files in every upstream layout, made of golden state dicts, become weights under this package's names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.parity.cases import Case, find_cases
from tests.parity.dsvt_network import detector_of
from tests.parity.test_e3dsnn import build_network
from zoo.convert import convert, main
from zoo.data.formats.gaussian_ply import read_gaussian_ply, read_splat
from zoo.models import dsvt, e3dsnn, gridformer, hollownerf, spark
from zoo.models.e3dsnn import E3DSNNClassifier, E3DSNNSegmentor
from zoo.models.layers.sparse_conv import SparseConvBase
from zoo.models.layers.spconv_weights import reinterprets


def golden(folder: str, *beginnings: str) -> list[Any]:
    """Cases whose name begins so; the stand-in where there are none."""
    return [case for case in find_cases(folder) if case.id.startswith((*beginnings, "absent", "empty"))]


def overrides_of(**values: Any) -> list[str]:
    def text(value: Any) -> str:
        return str(value).replace(" ", "").replace("'", "").replace("None", "null")

    return [f"{name}={text(value)}" for name, value in values.items()]


def converted(content: Any, folder: Path, model: str | None, overrides: list[str], **options: Any) -> dict[str, Tensor]:
    """What ``tools/convert.py`` makes of a checkpoint with this content."""
    torch.save(content, folder / "upstream.pth", **options)
    out = folder / "ours.safetensors"
    count = convert(folder / "upstream.pth", out, to="zoo", model=model, overrides=overrides, overwrite=True)
    found = load_file(out)
    assert len(found) == count
    return found


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    different = [name for name, value in expected.items() if not torch.equal(found[name], value)]
    assert not different


@pytest.mark.parametrize("case", golden("dsvt", "f"))
def test_dsvt(case: Case, tmp_path: Path) -> None:
    net = detector_of(case.config, case["input/points"].shape[1] - 1)
    sparse, bev = case.config["BACKBONE_3D"], case.config["BACKBONE_2D"]
    layout = sparse["INPUT_LAYER"]
    overrides = overrides_of(
        point_range=case.config["point_cloud_range"],
        voxel_size=case.config["voxel_size"],
        num_point_features=case["input/points"].shape[1] - 1,
        voxel_channels=case.config["VFE"]["NUM_FILTERS"],
        any_height=str(case.config["VFE"]["NAME"] in ("DynamicPillarVFE", "DynPillarVFE")).lower(),
        num_heads=sparse["nhead"][0],
        hidden_dim=sparse["dim_feedforward"][0],
        set_sizes=[size for size, _ in layout["set_info"]],
        num_blocks=[blocks for _, blocks in layout["set_info"]],
        window=layout["window_shape"][0][:2],
        hybrid_factor=layout["hybrid_factor"][:2],
        shift=layout["shifts_list"][0][1][:2],
        height_strides=[stride[2] for stride in layout["downsample_stride"]],
        reduction=sparse.get("reduction_type", "attention"),
        bev_blocks=bev["LAYER_NUMS"],
        bev_strides=bev["LAYER_STRIDES"],
        bev_channels=bev["NUM_FILTERS"],
        bev_up_strides=bev["UPSAMPLE_STRIDES"],
        bev_up_channels=bev["NUM_UPSAMPLE_FILTERS"],
    )
    overrides.append(f"head.shared_channels={case.config['DENSE_HEAD']['SHARED_CONV_CHANNEL']}")
    state = case.group("state")
    content = {"epoch": 3, "it": 40, "model_state": state, "optimizer_state": {"param_groups": []}, "version": "pcdet"}
    found = converted(content, tmp_path, "dsvt_waymo_pillar", overrides, _use_new_zipfile_serialization=False)
    assert_same(found, dsvt.remap_upstream(state))
    net.load_state_dict(found, strict=True)


@pytest.mark.parametrize("case", golden("e3dsnn", "cls_", "seg_"))
def test_e3dsnn(case: Case, tmp_path: Path) -> None:
    network = build_network(case, E3DSNNClassifier if case.stem.startswith("cls") else E3DSNNSegmentor)
    expected = e3dsnn.remap_upstream(case.group("state"), network, layout="KRSC")
    config = {name.replace("enc_depth", "enc_depths"): value for name, value in case.config.items()}
    model = "e3dsnn_t" if case.stem.startswith("cls") else "e3dsnn_seg"
    pointcept = {
        "epoch": 2,
        "state_dict": {f"module.backbone.{name}": value for name, value in case.group("state").items()},
        "best_metric_value": np.float64(0.9),
    }
    assert_same(converted(pointcept, tmp_path, model, overrides_of(**config)), expected)
    older = {name: spconv1(network, name, value) for name, value in case.group("state").items()}
    openpcdet = {"model_state": {f"backbone_3d.{name}": value for name, value in older.items()}, "version": "pcdet"}
    assert_same(converted(openpcdet, tmp_path, model, overrides_of(**config)), expected)


def spconv1(network: nn.Module, name: str, value: Tensor) -> Tensor:
    """A weight of spconv 2.x as spconv 1.x keeps it: ``[k.., in, out]``, multiplied by as it stands."""
    layer = dict(network.named_modules()).get(name.removesuffix(".weight"))
    if not isinstance(layer, SparseConvBase) or not name.endswith(".weight"):
        return value
    if reinterprets(layer):  # spconv 2.x reads the memory of such a kernel as [in, out]
        return value.reshape(*value.shape[1:-1], value.shape[-1], value.shape[0])
    return value.permute(*range(1, value.dim()), 0).contiguous()


@pytest.mark.parametrize("case", golden("gridformer", "net_"))
def test_gridformer(case: Case, tmp_path: Path) -> None:
    config, state = case.config, case.group("state")
    content = {
        "model": {f"module.{name}": value for name, value in state.items()},
        "epoch_it": 7,
        "loss_val_best": np.float32(0.5),
    }
    overrides = overrides_of(channels=config.get("hidden_dim", config.get("hidden")), resolution=config["resolution"])
    found = converted(content, tmp_path, f"gridformer_{config['kind']}", overrides)
    assert_same(found, gridformer.remap_upstream(content))
    assert len(found) == len(state)


@pytest.mark.parametrize("case", golden("spark", "spark_resnet", "spark_convnext"))
@pytest.mark.parametrize("form", ["run", "released"])
def test_spark_with_decoder(case: Case, form: str, tmp_path: Path) -> None:
    state, config = case.group("state"), {"mask_ratio": 0.6, "sbn": False}
    expected = spark.remap_upstream(state)
    wrapped = {"args": "text", "epoch": 3, "module": {**state, "config": config}, "is_pretrain": True}
    content = wrapped if form == "run" else {**state, "config": config}
    assert_same(converted(content, tmp_path, None, []), expected)
    model, backbone = backbone_of(case)
    overrides = [*backbone, *overrides_of(decoder_width=case.config["decoder_width"])]
    assert_same(converted(content, tmp_path, model, overrides), expected)


@pytest.mark.parametrize("case", golden("spark", "spark_resnet", "spark_convnext"))
def test_spark_without_decoder(case: Case, tmp_path: Path) -> None:
    prefix = "sparse_encoder.sp_cnn."
    inside = {key.removeprefix(prefix): v for key, v in case.group("state").items() if key.startswith(prefix)}
    model, backbone = backbone_of(case)
    found = converted(inside, tmp_path, f"{model}_classifier", [*backbone, "num_classes=3"])
    names = {name for name in found if name.startswith("backbone.")}
    assert_same({name.removeprefix("backbone."): found[name] for name in names}, inside)


def backbone_of(case: Case) -> tuple[str, list[str]]:
    encoder = case.config["encoder"]
    if "ConvNeXt" in encoder["family"]:
        return "spark_convnext_s", [
            f"backbone.{o}" for o in overrides_of(depths=encoder["depths"], dims=encoder["dims"])
        ]
    values = overrides_of(depths=encoder["layers"], channels=encoder["planes"], block=encoder["block"].lower())
    return "spark_resnet50", [f"backbone.{override}" for override in values]


@pytest.mark.parametrize("case", golden("hashgrid", "tcnn_ngp_field"))
def test_fields(case: Case, tmp_path: Path) -> None:
    config = case.config
    overrides = overrides_of(
        aabb=config["aabb"],
        num_levels=config["n_levels"],
        features_per_level=config["n_features_per_level"],
        log2_table_size=config["log2_hashmap_size"],
        base_resolution=config["base_resolution"],
        per_level_scale=config["per_level_scale"],
        convention="tcnn",
        hidden_dim=config["n_neurons"],
        geometry_dim=config["geo_feat_dim"],
        density_layers=config["mlp_base_hidden_layers"],
        color_layers=config["mlp_head_hidden_layers"],
        density_offset=-1.0,
        constant_color_input="true",
    )
    content = {"step": 5, "radiance_field_state_dict": case.group("state")}
    found = converted(content, tmp_path, "ngp", overrides)
    from zoo.registry import create_model

    field = create_model("ngp", overrides)
    assert isinstance(field, hollownerf.HollowNeRF)
    assert_same(found, hollownerf.remap_upstream(case.group("state"), field))


@pytest.mark.parametrize("case", golden("gsplat", "ply_export"))
def test_gaussians(case: Case, tmp_path: Path) -> None:
    out = tmp_path / "scene.safetensors"
    convert(case.path.with_suffix(".ply"), out, to="zoo")
    found = load_file(out)
    for name, value in case.group("state").items():
        assert torch.equal(found[f"rows.{name}"], value), name
    convert(out, tmp_path / "scene.ply", to="gaussians")
    assert all(
        torch.equal(value, found[f"rows.{n}"]) for n, value in vars(read_gaussian_ply(tmp_path / "scene.ply")).items()
    )
    convert(out, tmp_path / "scene.splat", to="gaussians")
    ours, theirs = (read_splat(path) for path in (tmp_path / "scene.splat", case.path.with_suffix(".splat")))
    assert torch.equal(ours.means, theirs.means)
    small = convert(
        case.path.with_suffix(".ply"), out, to="zoo", model="gaussians", overrides=["sh_degree=1"], overwrite=True
    )
    assert small == len(found)
    assert load_file(out)["rows.shN"].shape[1] == 3


def test_what_does_not_fit_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model_state": {"roi_head.weight": torch.zeros(1)}}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth: does not fit DSVT: state: found 'roi_head\.weight'"):
        convert(tmp_path / "a.pth", tmp_path / "b.safetensors", to="zoo", model="dsvt_tiny")
    with pytest.raises(ValueError, match="layout=gridformer: is that of GridFormer; found a DSVT"):
        convert(tmp_path / "a.pth", tmp_path / "b.safetensors", to="zoo", model="dsvt_tiny", layout="gridformer")
    with pytest.raises(ValueError, match="say which network it is: --model NAME"):
        convert(tmp_path / "a.pth", tmp_path / "b.safetensors", to="zoo")
    torch.save({"a": torch.zeros(1)}, tmp_path / "c.pth")
    with pytest.raises(ValueError, match="holds no Gaussians"):
        convert(tmp_path / "c.pth", tmp_path / "c.ply", to="gaussians")
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path / "a.pth"), str(tmp_path / "b.safetensors"), "--to", "zoo", "--model", "dsvt_tine"])
    assert ended.value.code == 1
    assert "no model 'dsvt_tine'; did you mean dsvt_tiny" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pth", "c.pth"]
