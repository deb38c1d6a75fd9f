"""DSVT: dynamic sparse voxel transformer with rotated sets (CVPR 2023), a 3D object detector for LiDAR points."""

from zoo.models.dsvt.backbone import DSVTBackbone
from zoo.models.dsvt.bird_eye_view import BirdEyeBackbone
from zoo.models.dsvt.center_head import CenterHead
from zoo.models.dsvt.detector import DSVT
from zoo.models.dsvt.transfusion_head import TransFusionHead
from zoo.models.dsvt.upstream_weights import remap_upstream
from zoo.models.dsvt.voxel_features import DynamicVoxelFeatures

__all__ = [
    "DSVT",
    "BirdEyeBackbone",
    "CenterHead",
    "DSVTBackbone",
    "DynamicVoxelFeatures",
    "TransFusionHead",
    "remap_upstream",
]
