"""A convnet with a linear classifier: what is fine-tuned or probed after pre-training, and how it takes weights.

Names are those of the backbone behind ``backbone.``, then ``norm`` (ConvNeXt only) and ``head``.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from zoo.models.spark.backbones import feature_channels, final_map
from zoo.models.spark.convnext import ConvNeXt
from zoo.models.spark.upstream_weights import remap_convnext, remap_upstream

__all__ = ["ImageClassifier", "backbone_state", "timm_state"]

_HEADS = ("fc.", "head.", "norm.")
_PRETRAINED = "encoder.backbone."


def backbone_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The backbone's weights out of those of SparK, of a classifier, or of a published file with or without decoder."""
    remapped = remap_upstream(state)
    for prefix in (_PRETRAINED, "backbone."):
        inside = {key[len(prefix) :]: value for key, value in remapped.items() if key.startswith(prefix)}
        if inside:
            return inside
    return remapped


def timm_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of timm for the weights of a classifier or of a pre-trained network, whose decoder is left out."""
    backbone = backbone_state(state)
    heads = {key: value for key, value in state.items() if key.startswith(_HEADS)}
    if any(key.startswith("downsample_layers.") for key in backbone):
        return remap_convnext({**backbone, **heads})
    kept = {key.replace("head.", "fc."): value for key, value in heads.items() if not key.startswith("norm.")}
    return {**backbone, **kept}


class ImageClassifier(nn.Module):
    """Mean of the last map over the picture, layer norm for a ConvNeXt, linear classifier.

    Args:
        backbone: see `zoo.models.spark.backbones`.
        num_classes: K.
        frozen: only the classifier learns, and the backbone's batch norms keep their statistics: a linear probe. The
            features are then normalised by a batch norm without parameters, as in MoCo v3's and MAE's probes.
    """

    def __init__(self, *, backbone: nn.Module, num_classes: int, frozen: bool = False) -> None:
        super().__init__()
        channels = feature_channels(backbone)
        self.backbone, self.frozen = backbone, frozen
        if frozen:
            self.norm: nn.Module = nn.BatchNorm1d(channels, affine=False, eps=1e-6)
            backbone.requires_grad_(False).eval()  # Lightning takes modules in the mode that it finds
        else:
            self.norm = nn.LayerNorm(channels, eps=1e-6) if isinstance(backbone, ConvNeXt) else nn.Identity()
        self.head = nn.Linear(channels, num_classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def train(self, mode: bool = True) -> ImageClassifier:
        """A frozen backbone stays in evaluation."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def features(self, image: Tensor) -> Tensor:
        """``(B, C)`` of ``(B, 3, H, W)``."""
        return final_map(self.backbone, image).mean((2, 3))

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(B, K)``."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features = self.features(image)
        return self.head(self.norm(features))

    def adopt_weights(self, state: Mapping[str, Tensor]) -> None:
        """Take the weights of a pre-trained network or of a classifier; a head of other classes starts anew.

        Raises:
            ValueError: the backbone does not fit; the message lists names.
        """
        own = self.state_dict()
        if state.keys() == own.keys() and all(own[key].shape == value.shape for key, value in state.items()):
            self.load_state_dict(dict(state), strict=True)
            return
        inside = {key: value for key, value in backbone_state(state).items() if not key.startswith(_HEADS)}
        wanted = {key: value for key, value in self.backbone.state_dict().items() if not key.startswith(_HEADS)}
        missing = sorted(wanted.keys() - inside.keys())
        unknown = sorted(inside.keys() - wanted.keys())
        wrong = sorted(key for key in wanted.keys() & inside.keys() if wanted[key].shape != inside[key].shape)
        if missing or unknown or wrong:
            found = [
                f"{len(names)} {what}, such as {names[0]}"
                for what, names in (("missing", missing), ("unknown", unknown), ("of another shape", wrong))
                if names
            ]
            raise ValueError(
                f"weights of {type(self.backbone).__name__}: {'; '.join(found)}; expected those of the same backbone"
            )
        self.backbone.load_state_dict(inside, strict=False)
