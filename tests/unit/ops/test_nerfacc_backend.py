"""The nerfacc back-end: the same results as ours where nerfacc runs on CPU tensors, a clear refusal elsewhere."""

from __future__ import annotations

import pytest
import torch

from tests.unit.ops.ray_cases import generator, nested_grid, random_packing, random_rays, random_samples
from zoo.ops import (
    importance_sampling,
    march_rays,
    render_rays,
    render_visibility_from_density,
    render_weights_from_alpha,
    render_weights_from_density,
    searchsorted,
    use_backend,
)

pytest.importorskip("nerfacc")


def batched(requires_grad=False):
    gen = generator(1)
    edges = torch.rand(7, 11, generator=gen).cumsum(-1)
    sigmas, colors = torch.rand(7, 10, generator=gen), torch.rand(7, 10, 3, generator=gen)
    return edges[:, :-1], edges[:, 1:], sigmas.requires_grad_(requires_grad), colors.requires_grad_(requires_grad)


def both(function):
    ours = function()
    with use_backend("nerfacc"):
        theirs = function()
    return ours, theirs


def assert_alike(pair, **tolerance):
    torch.testing.assert_close(*pair, **({"rtol": 1e-5, "atol": 1e-6} | tolerance))


def test_batched_rendering_agrees():
    starts, ends, sigmas, colors = batched()
    assert_alike(both(lambda: render_weights_from_density(starts, ends, sigmas)))
    assert_alike(both(lambda: render_weights_from_alpha(0.9 * sigmas)))
    assert_alike(both(lambda: render_visibility_from_density(starts, ends, sigmas, early_stop_eps=0.2, alpha_thre=0.1)))
    for eps in (0.0, 0.3):
        assert_alike(both(lambda eps=eps: tuple(render_rays(starts, ends, sigmas, colors, early_stop_eps=eps))))


def test_gradients_of_batched_rendering_agree():
    starts, ends, sigmas, colors = batched(requires_grad=True)

    def gradients():
        out = render_rays(starts, ends, sigmas, colors, background=torch.tensor([0.2, 0.4, 0.6]))
        loss = (out.colors**2).sum() + out.depths.sum() + out.weights.square().sum()
        return torch.autograd.grad(loss, (sigmas, colors))

    assert_alike(both(gradients), rtol=1e-4, atol=1e-5)


def test_what_needs_cuda_is_refused_by_name():
    info = random_packing(5, 4)
    starts, ends, sigmas, colors = random_samples(info)
    edges = torch.rand(2, 5).cumsum(-1)
    calls = {
        "march_rays": lambda: march_rays(*random_rays(3), *nested_grid(1)),
        "render_transmittance_from_density": lambda: render_rays(starts, ends, sigmas, colors, info),
        "render_transmittance_from_alpha": lambda: render_weights_from_alpha(sigmas, info),
        "importance_sampling": lambda: importance_sampling(edges, edges, 3),
        "searchsorted": lambda: searchsorted(edges, edges),
    }
    with use_backend("nerfacc"):
        for name, call in calls.items():
            with pytest.raises(
                ValueError, match=rf"{name}: found tensors on cpu with backend 'nerfacc', expected CUDA"
            ):
                call()


@pytest.mark.gpu
def test_packed_functions_agree_on_a_gpu():
    info = random_packing(200, 40)
    samples = [x.cuda() for x in random_samples(info)]
    info = info.cuda()
    rays_o, rays_d, binaries, aabbs = (x.cuda() for x in (*random_rays(300), *nested_grid(2)))
    assert_alike(both(lambda: tuple(render_rays(*samples, info))), rtol=1e-4, atol=1e-5)
    assert_alike(both(lambda: render_weights_from_density(*samples[:3], info)), rtol=1e-4, atol=1e-5)
    for step, cone in ((0.07, 0.0), (0.05, 0.03), (-1.0, 0.0)):
        marched = both(
            lambda step=step, cone=cone: tuple(
                march_rays(rays_o, rays_d, binaries, aabbs, step_size=step, cone_angle=cone)
            )[:4]
        )
        assert_alike(marched, rtol=0, atol=2e-4)
    edges = torch.rand(50, 9, device="cuda").cumsum(-1)
    cdfs = torch.linspace(0, 1, 9, device="cuda").expand(50, 9).contiguous()
    assert_alike(both(lambda: importance_sampling(edges, cdfs, 6)), rtol=1e-4, atol=1e-5)
