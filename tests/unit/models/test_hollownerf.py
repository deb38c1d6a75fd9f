"""The field: parameter counts, gating, foreign checkpoints, golden values of a tiny-cuda-nn field."""

from __future__ import annotations

import pytest
import torch

from zoo.models.hollownerf import HollowNeRF, hollownerf, instant_ngp, nerfacc_ngp, remap_upstream
from zoo.models.saliency import DensityGate, SaliencyGrid, SaliencyPruner


def small_field(**settings) -> HollowNeRF:
    torch.manual_seed(0)
    defaults = {"num_levels": 4, "log2_table_size": 8, "base_resolution": 4, "finest_resolution": 16}
    return HollowNeRF(**(defaults | settings))


def small_hollow_field(**settings) -> HollowNeRF:
    return small_field(
        saliency=SaliencyGrid(resolution=6),
        gate=DensityGate(soft=10.0, hard=100.0, switch_step=3),
        pruner=SaliencyPruner(),
        **settings,
    )


def some_rays(count: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    positions = torch.rand(count, 3, generator=generator) * 2 - 1
    return positions, torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)


@pytest.mark.parametrize(
    ("build", "log2_table_size", "count"),
    [
        (hollownerf, 17, 3_597_776),
        (hollownerf, 18, 6_481_360),
        (instant_ngp, 17, 3_335_632),
        (instant_ngp, 18, 6_219_216),
        (instant_ngp, 19, 11_487_072),
    ],
)
def test_parameters_are_those_of_the_paper(build, log2_table_size: int, count: int) -> None:
    with torch.device("meta"):
        field = build(log2_table_size=log2_table_size)
    assert field.count_parameters() == count


def test_larger_saliency_grids_count_as_in_the_paper() -> None:
    with torch.device("meta"):
        counts = [hollownerf(saliency_resolution=t).count_parameters() for t in (96, 128)]
    assert [round(count / 1e6, 2) for count in counts] == [4.22, 5.43]


def test_density_is_zero_outside_of_the_box_and_where_nothing_is_salient() -> None:
    field = small_hollow_field()
    positions, directions = some_rays()
    assert not field(positions * 4 + 3.5, directions).density.any()
    assert field(positions, directions).density.all()
    assert field.saliency is not None
    field.saliency.close_cells(torch.zeros(5, 5, 5, dtype=torch.bool))
    assert not field(positions, directions).density.any()


def test_the_gate_multiplies_density_alone_unless_asked() -> None:
    positions, directions = some_rays()
    plain, gated = small_hollow_field(), small_hollow_field(gate_geometry=True)
    gated.load_state_dict(plain.state_dict())
    torch.testing.assert_close(plain(positions, directions).density, gated(positions, directions).density)
    opened = plain.gate(
        plain.encoding(plain.normalize(positions)) * plain.saliency(plain.normalize(positions))[:, None]
    )
    torch.testing.assert_close(gated.density(positions)[1], plain.density(positions)[1] * opened[:, None])


def test_no_points() -> None:
    density, rgb = small_hollow_field()(torch.empty(0, 3), torch.empty(0, 3))
    assert density.shape == (0,)
    assert rgb.shape == (0, 3)


def test_every_parameter_of_a_hollow_field_learns() -> None:
    field = small_hollow_field()
    density, rgb = field(*some_rays())
    (density.sum() + rgb.sum() + field.penalty(0)).backward()
    for name, parameter in field.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 0, name


def test_schedule_and_multiplier_are_part_of_the_state() -> None:
    field = small_hollow_field()
    field.set_step(3)
    field.after_step(3)
    restored = small_hollow_field()
    restored.load_state_dict(field.state_dict(), strict=True)
    assert restored.gate is not None
    assert restored.pruner is not None
    assert float(restored.gate.alpha) == 100.0
    assert float(restored.pruner.gamma) > 0


def test_bfloat16_autocast_stays_close() -> None:
    field = small_hollow_field()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = field(*some_rays())
    full = field(*some_rays())
    assert half.density.dtype == half.rgb.dtype == torch.float32
    torch.testing.assert_close(half.rgb, full.rgb, atol=0.02, rtol=0.02)
    torch.testing.assert_close(half.density, full.density, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("settings", [{"aabb": [1, 1, 1, 0, 0, 0]}, {"pruner": SaliencyPruner()}])
def test_bad_arguments_are_named(settings) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        small_field(**settings)


def torch_ngp_checkpoint(field: HollowNeRF) -> dict[str, torch.Tensor]:
    """The keys of torch-ngp's NeRFNetwork with its occupancy grid, around the weights of ``field``."""
    state = {
        "aabb_train": field.aabb,
        "aabb_infer": field.aabb,
        "density_grid": torch.zeros(1, 8),
        "density_bitfield": torch.zeros(1, dtype=torch.uint8),
        "step_counter": torch.zeros(16, 2, dtype=torch.int32),
        "encoder.embeddings": field.encoding.table.detach(),
        "encoder.offsets": field.encoding.offsets.to(torch.int32),
    }
    state |= {f"sigma_net.{i}.weight": weight.detach() for i, weight in enumerate(field.decoder.weights())}
    return state | {f"color_net.{i}.weight": weight.detach() for i, weight in enumerate(field.color_net.weights())}


def test_torch_ngp_checkpoints_load_strictly() -> None:
    source = small_field()
    for target in (small_field(), small_hollow_field()):
        torch.nn.init.zeros_(target.encoding.table)
        target.load_state_dict(remap_upstream(torch_ngp_checkpoint(source), target), strict=True)
        torch.testing.assert_close(target.encoding.table, source.encoding.table)
        torch.testing.assert_close(target.color_net.weights()[2], source.color_net.weights()[2])
    plain = small_field()
    plain.load_state_dict(remap_upstream(torch_ngp_checkpoint(source), plain))
    torch.testing.assert_close(plain(*some_rays()), source(*some_rays()))


def test_unknown_checkpoints_are_refused() -> None:
    with pytest.raises(ValueError, match=r"found the keys \['something"):
        remap_upstream({"something.else": torch.zeros(1)}, small_field())


def test_nerfacc_preset_has_the_size_of_its_checkpoints() -> None:
    with torch.device("meta"):
        field = nerfacc_ngp()
    assert sum(p.numel() for p in [*field.encoding.parameters(), *field.decoder.parameters()]) == 12_602_992


def test_the_gate_may_teach_the_saliency_alone() -> None:
    everything, alone = small_hollow_field(), small_hollow_field(gate_gradient="saliency")
    alone.load_state_dict(everything.state_dict())
    gradients = []
    for field in (everything, alone):
        density, _ = field.density(some_rays()[0])
        density.sum().backward()
        assert field.saliency is not None
        gradients.append((density, field.saliency.values.grad, field.encoding.table.grad))
    torch.testing.assert_close(gradients[0][:2], gradients[1][:2])
    assert float((gradients[0][2] - gradients[1][2]).abs().max()) > 1.0  # of the order of alpha
