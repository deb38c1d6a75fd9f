"""Golden cases of sparse-view reconstruction: image metrics, losses, encoding masks, cameras and split files."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.lpips_weights import formula_weights
from tests.parity.cases import Case, assert_close, assert_close_to_peak, dispatch, find_cases
from zoo.data.cameras import Cameras
from zoo.data.formats.spare import read_split
from zoo.data.projection_matrix import average_pose, decompose_projection, regnerf_frame
from zoo.data.scene_frame import apply_similarity
from zoo.losses.depth_regularizers import (
    depth_continuity_loss,
    depth_ranking_loss,
    patch_smoothness_loss,
    pearson_loss,
)
from zoo.losses.ray_regularizers import (
    dark_or_bright,
    distortion_loss,
    first_samples,
    occlusion_loss,
    ray_entropy,
    ray_entropy_loss,
)
from zoo.metrics.image import SSIMVariant, psnr, ssim
from zoo.metrics.lpips import LPIPS
from zoo.metrics.masked_image import crop_to_mask, mask_box, on_white
from zoo.models.layers.coarse_to_fine import frequency_mask
from zoo.ops import accumulate_along_rays, render_weights_from_density

SSIM_NAMES: dict[str, tuple[SSIMVariant, float]] = {
    "ssim_skimage_uniform7": ("uniform_valid", 1.0),
    "ssim_skimage_uniform7_range2": ("uniform_valid", 2.0),
    "ssim_skimage_gauss11": ("gaussian_valid", 1.0),
    "ssim_gauss11_valid": ("gaussian_valid", 1.0),
    "ssim_torchmetrics": ("gaussian_reflect", 1.0),
    "ssim_3dgs_zero_pad": ("gaussian_zero", 1.0),
}
CASES = find_cases("spare")


def _check_metrics(case: Case) -> None:
    assert case.meta["tolerance"] == {"psnr": "abs 1e-3 dB", "ssim": "abs 1e-5 in float64, 1e-4 in float32"}
    mask = case["input/mask"]
    assert list(mask_box(mask)) == case["output/masked/bbox_y0y1x0x1"].tolist()
    for dtype, bar in ((torch.float64, 1e-5), (torch.float32, 1e-4)):
        prediction, target = case["input/pred"].to(dtype), case["input/gt"].to(dtype)
        within = psnr(prediction, target, mask)
        assert_close(within, case["output/masked/psnr_pixels"], atol=1e-3, what=f"masked PSNR {dtype}")
        pairs = {
            "full": (prediction, target),
            "bbox": (crop_to_mask(prediction, mask), crop_to_mask(target, mask)),
            "whitebg": (on_white(prediction, mask), on_white(target, mask)),
        }
        checked = 0
        for kind, (first, second) in pairs.items():
            for name, expected in case.group(f"output/{kind}").items():
                what = f"{kind} {name} {dtype}"
                if name.startswith("psnr"):
                    assert_close(psnr(first, second), expected, atol=1e-3, what=what)
                else:
                    variant, data_range = SSIM_NAMES[name]
                    found = ssim(first, second, variant=variant, data_range=data_range)
                    assert_close(found, expected, atol=bar, what=what)
                checked += 1
        assert checked == len(case.group("output")) - 2


def _check_lpips(case: Case, tmp_path) -> None:
    assert case.meta["tolerance"] == {"float32": "rel 1e-3"}
    net = case.config["net"]
    save_file({**formula_weights(net), **case.group("state")}, tmp_path / "weights.safetensors")
    metric = LPIPS(net=net, weights=tmp_path / "weights.safetensors")
    images = [case[f"input/img{i}"].movedim(1, -1) for i in (0, 1)]
    assert_close(metric(*images), case["output/lpips"], rtol=1e-3, what="lpips")
    stages = metric.double().stages(*(image.double() for image in images))  # formula weights leave 1e-12 of the deepest
    for number, stage in enumerate(stages):
        assert_close(stage, case[f"output/layer{number}"].reshape(-1), rtol=1e-3, what=f"stage {number}")


class _Losses:
    """One evaluation of a losses case in one precision."""

    def __init__(self, case: Case, dtype: torch.dtype) -> None:
        self.case, self.dtype = case, dtype
        rays, samples = case["input/weights"].shape
        starts = torch.arange(rays) * samples
        self.packed = torch.stack((starts, torch.full_like(starts, samples)), -1)

    def leaf(self, name: str) -> Tensor:
        return self.case[f"input/{name}"].to(self.dtype).clone().requires_grad_()

    def close(self, actual: Tensor, name: str) -> None:
        rtol = 1e-6 if self.dtype == torch.float64 else 1e-4
        assert_close_to_peak(actual, self.case[name], rtol=rtol, what=f"{name} {self.dtype}")

    def grad(self, loss: Tensor, **leaves: Tensor) -> None:
        grads = torch.autograd.grad(loss, list(leaves.values()), retain_graph=True)
        for name, grad in zip(leaves, grads, strict=True):
            self.close(grad, f"grad/{name}")

    def edges(self, edges: Tensor) -> tuple[Tensor, Tensor]:
        return edges[:, :-1].reshape(-1), edges[:, 1:].reshape(-1)

    def distortion(self) -> None:
        weights, edges = self.leaf("weights"), self.leaf("t_edges")
        per_ray = distortion_loss(weights.reshape(-1), *self.edges(edges), self.packed)
        self.close(per_ray, "output/distortion_per_ray")
        self.close(per_ray.mean(), "output/distortion_mean")
        self.grad(per_ray.mean(), distortion_weights=weights, distortion_t_edges=edges)

    def rendering_and_entropy(self) -> None:
        sigmas = self.leaf("sigmas")
        starts, ends = self.edges(self.leaf("t_edges"))
        weights, _, alphas = render_weights_from_density(starts, ends, sigmas.reshape(-1), packed_info=self.packed)
        opacity = accumulate_along_rays(weights, packed_info=self.packed)[:, 0]
        middles = ((starts + ends) / 2)[:, None]
        self.close(weights.reshape(sigmas.shape), "output/render_weights")
        self.close(accumulate_along_rays(weights, middles, packed_info=self.packed)[:, 0], "output/render_depth")
        self.close(opacity, "output/render_acc")
        cotangent = self.case["input/cotangent_weights"].to(self.dtype)
        self.grad((weights.reshape(sigmas.shape) * cotangent).sum(), render_weights_sigmas=sigmas)
        self.close(ray_entropy(alphas, self.packed), "output/entropy_per_ray")
        assert torch.equal((opacity > 0.1).float(), self.case["output/entropy_mask"])
        loss = ray_entropy_loss(alphas, opacity, self.packed)
        self.close(loss, "output/entropy_loss")
        self.grad(loss, entropy_sigmas=sigmas)

    def occlusion(self) -> None:
        extreme = dark_or_bright(self.case["input/rgb_samples"].reshape(-1, 3))
        names = [name for name in self.case.group("output") if name.startswith("occlusion_m")]
        assert names
        for name in names:
            first, _, second = name.removeprefix("occlusion_m").partition("_wb")
            mask = first_samples(self.packed, int(first))
            if second:
                mask = mask | (first_samples(self.packed, int(second)) & extreme)
            sigmas = self.leaf("sigmas")
            loss = occlusion_loss(sigmas.reshape(-1), mask)
            self.close(loss, f"output/{name}")
            self.grad(loss, **{f"{name}_sigmas": sigmas})

    def smoothness(self) -> None:
        for name in ("l2", "l2_accweighted", "l1"):
            depth = self.leaf("patch_depth")
            opacity = self.case["input/patch_acc"].to(self.dtype) if name.endswith("weighted") else None
            loss = patch_smoothness_loss(depth, opacity, kind="absolute" if name == "l1" else "squared")
            self.close(loss, f"output/smooth_{name}")
            self.grad(loss, **{f"smooth_{name}": depth})

    def ranking_and_correlation(self) -> None:
        config, depth = self.case.config, self.leaf("rank_depth")
        d0, d1, d2, d3 = depth.unbind(0)
        rank = depth_ranking_loss(d0, d1, config["rank_margin"])
        margin = config["continuity_margin"]
        continuity = depth_continuity_loss(d0, d2, margin) + depth_continuity_loss(d1, d3, margin)
        total = rank + config["continuity_weight"] * continuity
        self.close(rank, "output/rank")
        self.close(continuity, "output/continuity")
        self.close(total, "output/rank_total")
        self.grad(total, rank_total=depth)
        prediction = self.leaf("pearson_pred")
        loss = pearson_loss(prediction, self.case["input/pearson_target"].to(self.dtype))
        self.close(loss, "output/pearson_loss")
        self.grad(loss, pearson_pred=prediction)


def _check_losses(case: Case) -> None:
    assert case.meta["tolerance"] == {"float64": "rel 1e-6", "float32": "rel 1e-4 of the tensor max"}
    for dtype in (torch.float64, torch.float32):
        losses = _Losses(case, dtype)
        losses.distortion()
        losses.rendering_and_entropy()
        losses.occlusion()
        losses.smoothness()
        losses.ranking_and_correlation()


def _check_masks(case: Case) -> None:
    assert case.meta["tolerance"] == {"float32": "1e-6"}
    for number, config in enumerate(case.meta["config"]):
        found = frequency_mask(config["length"], config["step"], config["end"])
        assert_close(found, case[f"output/mask_{number}"], atol=1e-6, what=f"mask {number}")


def _check_cameras(case: Case) -> None:
    assert case.meta["tolerance"] == {"float64": "rel 1e-6 (float32 storage: 1e-5)"}

    def close(actual: Tensor, name: str) -> None:
        assert_close_to_peak(actual, case[f"output/{name}"], rtol=1e-5, what=name)

    projections = case["input/projections"].double()
    for factor in (1.0, -3.7):  # any scale and sign
        found = decompose_projection(projections * factor)
        close(found.intrinsics, "K")
        close(found.rotation, "R_w2c")
        close(found.center, "centers")
    poses = found.camera_to_world
    close(poses[:, :3], "camtoworld")
    close(average_pose(poses), "avg_pose")
    similarity = regnerf_frame(poses)
    close(apply_similarity(similarity, poses)[:, :3], "camtoworld_normalised")
    close(1 / torch.linalg.det(similarity[:3, :3]) ** (1 / 3), "scale")
    step = case.config["factor"]
    shrunk = torch.diag(torch.tensor([1 / step, 1 / step, 1.0], dtype=torch.float64)) @ found.intrinsics
    close(shrunk, f"K_factor{step}")
    fx, fy, cx, cy, skew = (
        found.intrinsics[:, row, column] for row, column in ((0, 0), (1, 1), (0, 2), (1, 2), (0, 1))
    )
    cameras = Cameras(
        apply_similarity(similarity, poses), torch.stack((fx, fy, cx, cy), -1), width=1600, height=1200,
        distortion=(skew / fx)[:, None], model="skewed",
    ).downscaled(step)  # fmt: skip
    pixels = case["input/ray_pixels_xy"]
    rays = cameras.rays(torch.zeros(len(pixels), dtype=torch.int64), pixels)
    expected = torch.nn.functional.normalize(case["output/ray_dirs_view0"].double(), dim=-1)
    assert_close_to_peak(rays.directions, expected, rtol=1e-5, what="ray directions")


def _check_split(case: Case) -> None:
    scenes = read_split(case.path)
    assert {name: scene.as_json() for name, scene in scenes.items()} == case.meta
    track = 3 if "track1" in case.stem else 9
    for name, scene in scenes.items():
        assert scene.is_dtu == (case.meta[name]["dataset"] == "DTU")
        assert len(scene.input_views) == track
        view = scene.test_views[0]
        assert scene.picture_name(view) == f"rect_{view + 1:03d}_3_r5000.png"


@pytest.mark.parametrize("case", CASES)
def test_case(case, tmp_path):
    handlers = {
        "metrics": _check_metrics,
        "lpips": lambda found: _check_lpips(found, tmp_path),
        "losses": _check_losses,
        "freenerf_masks": _check_masks,
        "cameras": _check_cameras,
        "split_excerpt": _check_split,
    }
    dispatch(case, handlers)
