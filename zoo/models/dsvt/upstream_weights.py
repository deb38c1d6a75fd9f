"""Names of OpenPCDet's parameters, and of the DSVT repository's, in this project's modules."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_LAYER = r"stage_(\d+)\.(\d+)\.encoder_list\.(\d+)\."
_PARTS = {"0": "hidden", "1": "norm", "3": "out"}

# (pattern of the whole name without its prefix, replacement), tried in order.
_BACKBONE = [
    (_LAYER + r"win_attn\.self_attn\.in_proj_(weight|bias)", r"stages.\1.blocks.\2.layers.\3.attention.inputs.\4"),
    (_LAYER + r"win_attn\.self_attn\.out_proj\.(.+)", r"stages.\1.blocks.\2.layers.\3.attention.output.\4"),
    (_LAYER + r"win_attn\.linear1\.(.+)", r"stages.\1.blocks.\2.layers.\3.expand.\4"),
    (_LAYER + r"win_attn\.linear2\.(.+)", r"stages.\1.blocks.\2.layers.\3.contract.\4"),
    (_LAYER + r"win_attn\.norm1\.(.+)", r"stages.\1.blocks.\2.layers.\3.attention_norm.\4"),
    (_LAYER + r"win_attn\.norm2\.(.+)", r"stages.\1.blocks.\2.layers.\3.feed_forward_norm.\4"),
    (_LAYER + r"norm\.(.+)", r"stages.\1.blocks.\2.layers.\3.outer_norm.\4"),
    (r"residual_norm_stage_(\d+)\.(\d+)\.(.+)", r"stages.\1.blocks.\2.norm.\3"),
    (r"stage_(\d+)_reduction\.pos_embedding", r"pools.\1.embedding"),
    (r"stage_(\d+)_reduction\.self_attn\.in_proj_(weight|bias)", r"pools.\1.attention.inputs.\2"),
    (r"stage_(\d+)_reduction\.self_attn\.out_proj\.(.+)", r"pools.\1.attention.output.\2"),
    (r"stage_(\d+)_reduction\.linear1\.(.+)", r"pools.\1.linear.\2"),
    (r"stage_(\d+)_reduction\.norm\.(.+)", r"pools.\1.norm.\2"),
]
_POSITION = re.compile(
    r"(?:input_layer\.)?posembed_layers\.(\d+)\.(\d+)\.(\d+)\.position_embedding_head\.([013])\.(.+)"
)
_VFE = [(r"pfn_layers\.(.+)", r"layers.\1")]
_BEV = [
    (r"blocks\.(\d+)\.(\d+)\.downsample_layer\.0\.(.+)", r"levels.\1.\2.shortcut.conv.\3"),
    (r"blocks\.(\d+)\.(\d+)\.downsample_layer\.1\.(.+)", r"levels.\1.\2.shortcut.norm.\3"),
    (r"blocks\.(\d+)\.(\d+)\.conv([12])\.(.+)", r"levels.\1.\2.conv\3.\4"),
    (r"blocks\.(\d+)\.(\d+)\.bn([12])\.(.+)", r"levels.\1.\2.norm\3.\4"),
    (r"deblocks\.(\d+)\.0\.(.+)", r"up.\1.conv.\2"),
    (r"deblocks\.(\d+)\.1\.(.+)", r"up.\1.norm.\2"),
]
_CENTER_HEAD = [
    (r"shared_conv\.0\.(.+)", r"shared.conv.\1"),
    (r"shared_conv\.1\.(.+)", r"shared.norm.\1"),
    (r"heads_list\.(\d+)\.(\w+)\.0\.0\.(.+)", r"heads.\1.\2.hidden.conv.\3"),
    (r"heads_list\.(\d+)\.(\w+)\.0\.1\.(.+)", r"heads.\1.\2.hidden.norm.\3"),
    (r"heads_list\.(\d+)\.(\w+)\.1\.(.+)", r"heads.\1.\2.out.\3"),
]
_TRANSFUSION = [
    (r"shared_conv\.(weight|bias)", r"shared.\1"),
    (r"heatmap_head\.0\.conv\.(.+)", r"heatmap.hidden.conv.\1"),
    (r"heatmap_head\.0\.bn\.(.+)", r"heatmap.hidden.norm.\1"),
    (r"heatmap_head\.1\.(.+)", r"heatmap.out.\1"),
    (r"class_encoding\.(.+)", r"class_embedding.\1"),
    (r"decoder\.self_attn\.in_proj_(weight|bias)", r"decoder.self_attention.inputs.\1"),
    (r"decoder\.self_attn\.out_proj\.(.+)", r"decoder.self_attention.output.\1"),
    (r"decoder\.multihead_attn\.in_proj_(weight|bias)", r"decoder.cross_attention.inputs.\1"),
    (r"decoder\.multihead_attn\.out_proj\.(.+)", r"decoder.cross_attention.output.\1"),
    (r"decoder\.linear1\.(.+)", r"decoder.expand.\1"),
    (r"decoder\.linear2\.(.+)", r"decoder.contract.\1"),
    (r"decoder\.norm([123])\.(.+)", r"decoder.norm\1.\2"),
    (r"prediction_head\.(\w+)\.0\.0\.(.+)", r"branches.\1.hidden.conv.\2"),
    (r"prediction_head\.(\w+)\.0\.1\.(.+)", r"branches.\1.hidden.norm.\2"),
    (r"prediction_head\.(\w+)\.1\.(.+)", r"branches.\1.out.\2"),
]
_QUERY_POSITION = re.compile(r"decoder\.(self|cross)_posembed\.position_embedding_head\.([013])\.(.+)")
_PREFIXES = {"vfe": "voxel_features", "backbone_3d": "backbone", "backbone_2d": "bev_backbone", "dense_head": "head"}
_PART_RULES = [*_BACKBONE, *_VFE, *_BEV, *_CENTER_HEAD, *_TRANSFUSION]


def remap_upstream(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of an upstream DSVT checkpoint under this project's names.

    Args:
        state: ``model_state`` of a checkpoint of OpenPCDet or of the DSVT repository, or the weights of one of its
            modules (``vfe``, ``backbone_3d``, ``backbone_2d``, ``dense_head``) without the prefix.

    Returns:
        Weights for ``load_state_dict(..., strict=True)``; the step counter ``global_step`` is left out.

    Raises:
        ValueError: A name that no module of DSVT has.

    Example:
        >>> import torch
        >>> list(remap_upstream({"vfe.pfn_layers.0.linear.weight": torch.zeros(1)}))
        ['voxel_features.layers.0.linear.weight']
    """
    renamed = {}
    for name, value in state.items():
        if name == "global_step":
            continue
        prefix, _, rest = name.partition(".")
        if prefix in _PREFIXES:
            renamed[f"{_PREFIXES[prefix]}.{_rename(rest, name)}"] = value
        else:
            renamed[_rename(name, name)] = value
    return renamed


def _rename(name: str, full_name: str) -> str:
    position = _POSITION.fullmatch(name)
    if position is not None:
        stage, block, shift, part, rest = position.groups()
        return f"stages.{stage}.blocks.{block}.positions.{shift}.{_PARTS[part]}.{rest}"
    query = _QUERY_POSITION.fullmatch(name)
    if query is not None:
        which, part, rest = query.groups()
        return f"decoder.{which}_position.{_PARTS[part]}.{rest}"
    for pattern, replacement in _PART_RULES:
        match = re.fullmatch(pattern, name)
        if match is not None:
            return match.expand(replacement)
    raise ValueError(f"state: found {full_name!r}, which is no parameter of upstream's DSVT; expected its model_state")
