"""E-3DSNN: spiking sparse convolutions for classification, segmentation and detection.

"Efficient 3D Recognition with Event-driven Spike Sparse Convolution", Qiu et al., AAAI 2025, arXiv 2412.07360.

Voxels go through sparse convolutions of which all but the first and the last read integer spikes 0..D, made by a neuron
from a real-valued membrane; shortcuts add membranes. Classifier and segmentor take coordinates (batch, x, y, z), the
detector (batch, z, y, x), as upstream; kernel axes follow the coordinate columns.

Where it differs from upstream:

- D is an argument that works, T > 1 and binary inference exist (upstream ships neither).
- An axis shorter than the total stride is enlarged (upstream's segmentor fails); an empty cloud and an empty sample of
  a batch pass.
- Dead parts are left out: voxel clusters that the segmentor computes and drops, unused groups, lists and heads.
- Kernels of one cell hold the matrix that spconv multiplies by, see `remap_upstream`.
"""

from zoo.models.e3dsnn.detector import E3DSNNDetector
from zoo.models.e3dsnn.networks import (
    PRESETS,
    E3DSNNClassifier,
    E3DSNNSegmentor,
    Preset,
    PresetName,
    e3dsnn_classifier,
)
from zoo.models.e3dsnn.roi_head import ProposalLimits, SpikeRoIHead
from zoo.models.e3dsnn.upstream import remap_upstream

__all__ = [
    "PRESETS",
    "E3DSNNClassifier",
    "E3DSNNDetector",
    "E3DSNNSegmentor",
    "Preset",
    "PresetName",
    "ProposalLimits",
    "SpikeRoIHead",
    "e3dsnn_classifier",
    "remap_upstream",
]
