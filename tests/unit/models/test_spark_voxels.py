"""SparK-3D: masks, leaks, targets, gradients, and the way to a classifier."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zoo.models.e3dsnn import E3DSNNClassifier
from zoo.models.spark.voxels import SparK3D, sample_patch_mask
from zoo.ops import SparseTensor


def make_model(**options: object) -> SparK3D:
    torch.manual_seed(0)
    settings = {
        "in_channels": 3,
        "embed_channels": 4,
        "enc_channels": (8, 8),
        "enc_depths": (1, 1),
        "decoder_width": 16,
    }
    return SparK3D(**{**settings, **options})  # type: ignore[arg-type]


def make_voxels(seed: int = 0, batch: int = 2, size: int = 15, share: float = 0.2) -> SparseTensor:
    generator = torch.Generator().manual_seed(seed)
    cells = (torch.rand(batch, size, size, size, generator=generator) < share).nonzero()
    return SparseTensor.from_coords(torch.randn(len(cells), 3, generator=generator), cells, (size,) * 3, batch)


def test_masks_keep_the_share_of_occupied_and_empty_patches() -> None:
    occupied = torch.rand(3, 4, 4, 4, generator=torch.Generator().manual_seed(1)) < 0.5
    occupied[2] = False
    occupied[2, 0, 0, 0] = True  # a single patch is not hidden
    visible = sample_patch_mask(occupied, 0.6, torch.Generator().manual_seed(2))
    for number in range(2):
        for group in (occupied[number], ~occupied[number]):
            assert int((visible[number] & group).sum()) == round(int(group.sum()) * 0.4)
    assert bool(visible[2, 0, 0, 0])
    extreme = sample_patch_mask(occupied, 0.999)
    assert ((extreme & occupied).flatten(1).sum(1) == 1).all()
    assert torch.equal(visible, sample_patch_mask(occupied, 0.6, torch.Generator().manual_seed(2)))
    for ratio in (0.0, 1.0):
        with pytest.raises(ValueError, match="mask_ratio: found"):
            sample_patch_mask(occupied, ratio)


@pytest.mark.parametrize("activation", ["relu", "integer"])
def test_nothing_hidden_reaches_the_encoder(activation: str) -> None:
    model, x = make_model(activation=activation).eval(), make_voxels()
    visible = sample_patch_mask(model.occupied_patches(x), 0.6, torch.Generator().manual_seed(3))
    hidden = ~visible[model._patch_of(x)]
    before = model(x, visible)
    noisy = torch.where(hidden[:, None], torch.randn_like(x.features) * 100, x.features)
    after = model(x.replace_feature(noisy), visible)
    assert torch.equal(before.occupancy, after.occupancy)
    for one, other in zip(before.levels, after.levels, strict=True):
        assert torch.equal(one.features, other.features)
    kept = torch.rand(len(hidden)) < 0.5  # other voxels in hidden patches: nothing but the targets may change
    rows = ~hidden | kept
    fewer = model(SparseTensor.from_coords(x.features[rows], x.coords[rows], x.spatial_shape, 2), visible)
    assert torch.equal(before.occupancy, fewer.occupancy)
    assert not torch.equal(before.loss, fewer.loss)


def test_sites_of_all_levels_lie_in_visible_patches() -> None:
    model, x = make_model().eval(), make_voxels()
    visible = sample_patch_mask(model.occupied_patches(x), 0.6, torch.Generator().manual_seed(3))
    levels = model.encode(x, visible)
    assert [level.spatial_shape for level in levels] == [(16,) * 3, (8,) * 3, (4,) * 3]
    for number, level in enumerate(levels):
        batch, *cells = level.coords.long().unbind(1)
        assert bool(visible[(batch, *(cell // (4 >> number) for cell in cells))].all())
        fine = x.coords[visible[model._patch_of(x)]].long()
        expected = torch.cat([fine[:, :1], fine[:, 1:] // (1 << number)], 1).unique(dim=0)
        assert torch.equal(level.coords.long(), expected)


def test_targets_of_a_small_scene() -> None:
    """Predictions are set by hand: the loss is what the definition says."""
    model = make_model(feature_weight=2.0)
    cells = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1], [0, 2, 0, 0], [0, 4, 0, 0]])
    values = torch.tensor([[1.0, 0.0, 0.0], [3.0, 0.0, 0.0], [4.0, 0.0, 0.0], [9.0, 9.0, 9.0]])
    x = SparseTensor.from_coords(values, cells, (8, 4, 4), 1)
    visible = torch.tensor([False, True]).view(1, 2, 1, 1)
    for parameter in model.head.parameters():
        torch.nn.init.zeros_(parameter)
    torch.nn.init.constant_(model.head.bias[:8], 2.0)  # type: ignore[index]
    result = model(x, visible)
    right, wrong = torch.nn.functional.softplus(torch.tensor([-2.0, 2.0]))
    torch.testing.assert_close(result.occupancy_loss, (right + wrong) / 2)
    # cells (0,0,0) with mean 2 and (1,0,0) with 4 in the hidden patch: normalised to -1 and 1, against 0
    torch.testing.assert_close(result.feature_loss, torch.tensor(1.0 / 3), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(result.loss, result.occupancy_loss + 2 * result.feature_loss)
    with torch.no_grad():
        model.head.bias[:8] = torch.arange(8.0)
    logits = model(x, visible).occupancy
    assert logits[0, :2, :2, :2].flatten().tolist() == list(range(8))
    assert logits[0, 1, 0, 1] == logits[0, 3, 2, 3] == 5.0


def test_the_likeliest_voxels_lie_in_hidden_patches() -> None:
    model, x = make_model().eval(), make_voxels()
    result = model(x, sample_patch_mask(model.occupied_patches(x), 0.6, torch.Generator().manual_seed(3)))
    logits, found = result.occupancy[1].detach(), result.likeliest(1, 20)
    patch = model.patch
    assert found.shape == (20, 3)
    assert not result.visible[1][(found // patch).unbind(1)].any()
    hidden = [
        (float(logits[cell]), cell)
        for cell in np.ndindex(*logits.shape)
        if not result.visible[1][tuple(index // patch for index in cell)]
    ]
    assert {tuple(cell.tolist()) for cell in found} == {cell for _, cell in sorted(hidden, reverse=True)[:20]}
    assert len(result.likeliest(1, 10**6)) == len(hidden)


def test_it_learns_and_every_parameter_gets_a_gradient() -> None:
    model, x = make_model(), make_voxels(share=0.1)
    visible = sample_patch_mask(model.occupied_patches(x), 0.5, torch.Generator().manual_seed(3))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        result = model(x, visible)
        result.loss.backward()
        losses.append(float(result.loss.detach()))
        optimizer.step()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert losses[-1] < 0.8 * losses[0]


def test_masks_that_do_not_fit_are_refused() -> None:
    model, x = make_model(), make_voxels()
    with pytest.raises(ValueError, match=r"visible: found torch\.bool"):
        model(x, torch.ones(2, 3, 4, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="no voxel in a visible patch"):
        model(x, torch.zeros(2, 4, 4, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="expected at least 4, a number between 0 and 1"):
        make_model(mask_ratio=1.0)


def test_the_encoder_is_handed_on_to_a_classifier() -> None:
    spark = make_model(activation="relu")
    settings = {"in_channels": 3, "embed_channels": 4, "enc_channels": (8, 8), "enc_depths": (1, 1)}
    model = E3DSNNClassifier(**settings, num_classes=5, activation="relu")  # type: ignore[arg-type]
    model.adopt_weights(spark.state_dict())
    for key, value in spark.encoder.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key
    other = E3DSNNClassifier(**settings, num_classes=5, activation="relu")  # type: ignore[arg-type]
    other.adopt_weights(model.state_dict())
    assert torch.equal(other.final.weight, model.final.weight)
    wide = E3DSNNClassifier(**{**settings, "embed_channels": 6}, num_classes=5)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="size mismatch"):
        wide.adopt_weights(spark.state_dict())
