"""SparK: masked pre-training of convnets."""

from zoo.models.spark.backbones import SmallResNet, resnet
from zoo.models.spark.classifier import ImageClassifier, timm_state
from zoo.models.spark.convnext import ConvNeXt
from zoo.models.spark.masking import mask_layers
from zoo.models.spark.network import LightDecoder, Reconstruction, SparK, SparseEncoder, sample_mask
from zoo.models.spark.sparse_layers import sparsify_layers
from zoo.models.spark.upstream_weights import remap_convnext, remap_upstream
from zoo.models.spark.visible import VisibleCells

__all__ = [
    "ConvNeXt",
    "ImageClassifier",
    "LightDecoder",
    "Reconstruction",
    "SmallResNet",
    "SparK",
    "SparseEncoder",
    "VisibleCells",
    "mask_layers",
    "remap_convnext",
    "remap_upstream",
    "resnet",
    "sample_mask",
    "sparsify_layers",
    "timm_state",
]
