"""Transmittance, weights, visibility, accumulation and the fused compositing: loops, gradients, threads, odd inputs."""

from __future__ import annotations

import math

import pytest
import torch

from tests.unit.ops.op_harness import assert_native_matches_reference, assert_same_for_all_threads
from tests.unit.ops.ray_cases import generator, random_packing, random_samples
from zoo.ops import (
    accumulate_along_rays,
    render_rays,
    render_transmittance_from_alpha,
    render_visibility_from_alpha,
    render_weight_from_density,
    render_weights_from_alpha,
    render_weights_from_density,
)


def brute_force(starts, ends, sigmas, colors, eps=0.0):
    """One ray, sample by sample."""
    transmittance, weights = 1.0, []
    for t0, t1, sigma in zip(starts.tolist(), ends.tolist(), sigmas.tolist(), strict=True):
        alpha = 1 - math.exp(-sigma * (t1 - t0)) if transmittance >= eps else 0.0
        weights.append(transmittance * alpha)
        transmittance *= 1 - alpha
    weights = torch.tensor(weights, dtype=colors.dtype)
    return weights, (weights[:, None] * colors).sum(0), weights.sum(), (weights * (starts + ends) / 2).sum()


@pytest.mark.parametrize("eps", [0.0, 0.3])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_render_rays_equals_a_loop(channels, eps):
    info = random_packing(30, 12)
    starts, ends, sigmas, colors = random_samples(info, torch.float64, channels=channels)
    out = render_rays(starts, ends, sigmas, colors, info, early_stop_eps=eps, normalize_depth=False)
    for ray, (a, n) in enumerate(info.tolist()):
        rows = slice(a, a + n)
        weights, color, opacity, depth = brute_force(starts[rows], ends[rows], sigmas[rows], colors[rows], eps)
        torch.testing.assert_close(out.weights[rows], weights)
        torch.testing.assert_close(out.colors[ray], color)
        torch.testing.assert_close(out.opacities[ray, 0], opacity)
        torch.testing.assert_close(out.depths[ray, 0], depth)


def test_composed_and_fused_rendering_agree():
    info = random_packing(30, 12)
    starts, ends, sigmas, colors = random_samples(info, torch.float64)
    fused = render_rays(starts, ends, sigmas, colors, info)
    weights, trans, alphas = render_weights_from_density(starts, ends, sigmas, info)
    torch.testing.assert_close(fused.weights, weights)
    torch.testing.assert_close(trans * alphas, weights)
    torch.testing.assert_close(fused.colors, accumulate_along_rays(weights, colors, packed_info=info))
    from_alpha, trans_from_alpha = render_weights_from_alpha(alphas, info)
    torch.testing.assert_close(from_alpha, weights)
    torch.testing.assert_close(trans_from_alpha, trans)
    assert render_weight_from_density is render_weights_from_density


def test_batched_and_packed_layouts_agree():
    gen = generator(5)
    edges = torch.rand(6, 9, generator=gen, dtype=torch.float64).cumsum(-1)
    sigmas, colors = torch.rand(6, 8, generator=gen).double(), torch.rand(6, 8, 3, generator=gen).double()
    batched = render_rays(edges[:, :-1], edges[:, 1:], sigmas, colors)
    info = torch.stack([torch.arange(6) * 8, torch.full((6,), 8)], -1)
    flat = [x.flatten(0, 1) for x in (edges[:, :-1], edges[:, 1:], sigmas, colors)]
    packed = render_rays(*flat, info)
    assert batched.weights.shape == (6, 8)
    for a, b in zip(batched, packed, strict=True):
        torch.testing.assert_close(a.reshape(b.shape), b)
    ids = torch.arange(6).repeat_interleave(8)
    by_index = render_weights_from_density(*flat[:3], ray_indices=ids, n_rays=6)[0]
    torch.testing.assert_close(by_index.view(6, 8), render_weights_from_density(edges[:, :-1], edges[:, 1:], sigmas)[0])


@pytest.mark.parametrize("eps", [0.0, 0.3])
def test_gradcheck(eps):
    info = torch.tensor([[0, 0], [0, 5], [5, 1], [6, 0], [6, 4]])
    starts, ends, sigmas, colors = random_samples(info, torch.float64)
    sigmas[2] = 0.0

    def render(sigmas, colors):
        return render_rays(starts, ends, sigmas, colors, info, early_stop_eps=eps, background=torch.ones(3).double())

    torch.autograd.gradcheck(render, (sigmas.requires_grad_(), colors.requires_grad_()))


@pytest.mark.parametrize("output", [0, 1, 2, 3])
def test_gradient_of_each_output_alone(output):
    info = random_packing(6, 5)
    starts, ends, sigmas, colors = random_samples(info, torch.float64)
    leaves = (sigmas.requires_grad_(), colors.requires_grad_())

    def loss(render):
        result = render()[output]
        weights = torch.linspace(0.5, 1.5, result.numel(), dtype=torch.float64).view_as(result)
        return torch.autograd.grad((result * weights).sum(), leaves, allow_unused=True)

    def composed():
        weights = render_weights_from_density(starts, ends, sigmas, info)[0]
        sums = [
            accumulate_along_rays(weights, v, packed_info=info) for v in (colors, None, ((starts + ends) / 2)[:, None])
        ]
        return *sums, weights

    fused = loss(lambda: render_rays(starts, ends, sigmas, colors, info, normalize_depth=False))
    for a, b in zip(fused, loss(composed), strict=True):
        torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b)


def test_gradient_through_an_opaque_sample_is_exact():
    alphas = torch.tensor([0.3, 1.0, 0.5], dtype=torch.float64, requires_grad=True)
    info = torch.tensor([[0, 3]])
    torch.autograd.gradcheck(lambda alphas: render_weights_from_alpha(alphas, info), alphas)
    batched = torch.autograd.grad(render_weights_from_alpha(alphas[None])[0].sum(), alphas)[0]
    packed = torch.autograd.grad(render_weights_from_alpha(alphas, info)[0].sum(), alphas)[0]
    torch.testing.assert_close(packed, batched)


def test_small_opacities_keep_their_digits():
    sigmas = torch.full((4,), 1e-6)
    starts, info = torch.arange(4.0), torch.tensor([[0, 4]])
    weights = render_rays(starts, starts + 1, sigmas, torch.ones(4, 1), info).weights
    torch.testing.assert_close(weights, sigmas, rtol=1e-5, atol=0)
    torch.testing.assert_close(
        render_weights_from_density(starts, starts + 1, sigmas, info)[0], sigmas, rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("rays", [0, 1, 100])
def test_native_equals_reference(rays, channels, dtype):
    info = random_packing(rays, 40)
    starts, ends, sigmas, colors = random_samples(info, dtype, channels=channels)
    for eps in (0.0, 0.2):
        arguments = (starts, ends, sigmas, colors, info, eps)
        assert_native_matches_reference("render_rays", *arguments, rtol=1e-4, atol=1e-5)
        outputs = torch.ops.zoo.render_rays(*arguments)
        gen = generator(9)
        grads = [torch.randn(x.shape, generator=gen, dtype=dtype) for x in outputs[:4]]
        for given in (grads, [grads[0], None, None, None], [None, *grads[1:]]):
            backward = (*given, starts, ends, colors, *outputs[3:], info)
            assert_native_matches_reference("render_rays_backward", *backward, rtol=1e-4, atol=1e-5)


def test_results_do_not_depend_on_threads():
    info = random_packing(3000, 30)
    starts, ends, sigmas, colors = random_samples(info)
    leaves = (sigmas.requires_grad_(), colors.requires_grad_())

    def forward_and_backward():
        out = render_rays(starts, ends, *leaves, info, early_stop_eps=1e-2)
        return *out, *torch.autograd.grad(out.colors.sum() + out.depths.sum(), leaves)

    assert_same_for_all_threads(forward_and_backward)


def test_half_precision_and_autocast_render_in_float32():
    info = random_packing(10, 6)
    starts, ends, sigmas, colors = random_samples(info)
    expected = render_rays(starts, ends, sigmas, colors, info)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = render_rays(starts, ends, sigmas, colors, info)
        weights, _, _ = render_weights_from_density(starts, ends, sigmas.bfloat16(), info)
    assert torch.equal(found.colors, expected.colors)
    assert weights.dtype == torch.float32
    assert render_rays(starts, ends, sigmas.bfloat16(), colors.bfloat16(), info).colors.dtype == torch.float32


def test_rays_without_samples_show_the_background():
    nothing, info = torch.empty(0), torch.zeros(2, 2, dtype=torch.int64)
    out = render_rays(nothing, nothing, nothing, torch.empty(0, 3), info, background=torch.tensor([0.1, 0.2, 0.3]))
    assert out.colors.tolist() == torch.tensor([[0.1, 0.2, 0.3]] * 2).tolist()
    assert out.opacities.tolist() == out.depths.tolist() == [[0.0], [0.0]]
    none = render_rays(nothing, nothing, nothing, torch.empty(0, 3), torch.empty(0, 2, dtype=torch.int64))
    assert none.colors.shape == (0, 3)
    assert accumulate_along_rays(nothing, ray_indices=nothing.long(), n_rays=2).tolist() == [[0.0], [0.0]]


def test_visibility_counts_the_thresholds_in():
    alphas = torch.tensor([0.5, 0.5, 0.5, 0.0])
    visible = render_visibility_from_alpha(alphas, torch.tensor([[0, 4]]), early_stop_eps=0.25, alpha_thre=0.5)
    assert visible.tolist() == [True, True, True, False]
    prefix = torch.full((4,), 0.5)
    trans = render_transmittance_from_alpha(alphas, torch.tensor([[0, 4]]), prefix_trans=prefix)
    assert trans.tolist() == [0.5, 0.25, 0.125, 0.0625]


def test_opcheck():
    info = random_packing(4, 5)
    starts, ends, sigmas, colors = random_samples(info, torch.float64)
    arguments = (starts, ends, sigmas.requires_grad_(), colors.requires_grad_(), info, 0.1)
    torch.library.opcheck(torch.ops.zoo.render_rays, arguments)
    outputs = [x.detach() for x in torch.ops.zoo.render_rays(*arguments)]
    backward = (outputs[0], None, outputs[2], None, starts, ends, colors.detach(), *outputs[3:], info)
    torch.library.opcheck(torch.ops.zoo.render_rays_backward, backward)


def test_bad_inputs_are_named():
    info = torch.tensor([[0, 2]])
    good = {"t_starts": torch.zeros(2), "t_ends": torch.ones(2), "sigmas": torch.ones(2), "packed_info": info}
    for name in ("t_starts", "t_ends"):
        with pytest.raises(
            ValueError, match=rf"{name}: found shape \(2, 1\), expected \(2,\), the shape of sigmas; drop"
        ):
            render_weights_from_density(**(good | {name: torch.ones(2, 1)}))
    with pytest.raises(ValueError, match=r"sigmas: found shape \(2, 1\), expected \(N,\) for packed samples; drop"):
        render_weights_from_density(**(good | {"sigmas": torch.ones(2, 1)}))
    with pytest.raises(ValueError, match=r"rgbs: found shape \(2, 1, 3\), expected \(2, 'C'\)"):
        render_rays(**good, rgbs=torch.ones(2, 1, 3))
    with pytest.raises(ValueError, match=r"background: found shape \(1,\), expected \(3,\) or \(1, 3\)"):
        render_rays(**good, rgbs=torch.ones(2, 3), background=torch.ones(1))
    with pytest.raises(ValueError, match="n_rays: found None"):
        render_weights_from_alpha(torch.ones(2), ray_indices=torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"values: found shape \(2,\), expected \(2, 'C'\)"):
        accumulate_along_rays(torch.ones(2), torch.ones(2), packed_info=info)
    with pytest.raises(ValueError, match=r"sigmas: found shape \(2,\), expected \(n_rays, n_samples\)"):
        render_rays(torch.zeros(2), torch.ones(2), torch.ones(2), torch.ones(2, 3))
