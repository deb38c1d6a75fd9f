"""The training task: exact resuming, adapting rays, skipped steps, parameter groups, report."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from safetensors.torch import save_file
from torch.utils.data import DataLoader

from tests.lpips_weights import formula_weights
from tests.unit.models.test_hollownerf import small_hollow_field
from zoo.data.cameras import Cameras
from zoo.data.posed_images import PosedImages
from zoo.data.radiance_fields import Indices
from zoo.models.layers.occupancy_grid import OccupancyGrid
from zoo.rendering.field_renderer import FieldRenderer
from zoo.tasks.field_schedules import exponential_decay, multi_step_decay
from zoo.tasks.quality_curve import QualityCurve
from zoo.tasks.radiance_field import RadianceFieldTask
from zoo.tasks.ray_budget import RayBudget
from zoo.tasks.view_scores import ViewScores


class TwoViews(LightningDataModule):
    """Two pictures of 16 x 16 pixels, opaque left half, and the indices of the steps that are left."""

    def __init__(self, max_steps: int) -> None:
        super().__init__()
        self.max_steps = max_steps
        poses = torch.eye(4).repeat(2, 1, 1)
        poses[:, 2, 3] = -3.0
        poses[1, 0, 3] = 0.3
        cameras = Cameras(poses, torch.tensor([[16.0, 16.0, 8.0, 8.0]]).repeat(2, 1), width=16, height=16)
        pixels = torch.randint(0, 255, (2, 16, 16, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        pixels[:, :, :8, 3] = 255
        self.train = self.val = self.test = PosedImages(pixels, cameras, ("left", "right"))

    def train_dataloader(self) -> DataLoader:
        return DataLoader(Indices(self.max_steps), batch_size=None)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Indices(2), batch_size=None)

    test_dataloader = val_dataloader


def make_task(**settings) -> RadianceFieldTask:
    occupancy = OccupancyGrid(roi_aabb=[-1, -1, -1, 1, 1, 1], resolution=8, update_every=2, warmup_steps=4)
    return RadianceFieldTask(
        model=small_hollow_field(gate_gradient="saliency"),
        optimizer=functools.partial(torch.optim.Adam, lr=1e-2, eps=1e-15),
        scheduler=functools.partial(exponential_decay, total_steps=8),
        renderer=FieldRenderer(occupancy=occupancy, step_size=0.1),
        budget=RayBudget(target_samples=1000, initial_rays=64),
        log_every=1,
        **settings,
    )


def fit(task: RadianceFieldTask, folder: Path, steps: int, ckpt: Path | None = None) -> Trainer:
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        max_epochs=-1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        val_check_interval=4,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        callbacks=[QualityCurve()],
        enable_checkpointing=False,
    )
    trainer.fit(task, datamodule=TwoViews(steps), ckpt_path=ckpt, weights_only=True)
    return trainer


def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole = make_task()
    fit(whole, tmp_path, 8)
    first = make_task()
    fit(first, tmp_path, 4).save_checkpoint(tmp_path / "half.ckpt")
    second = make_task(seed=0)
    trainer = fit(second, tmp_path, 8, tmp_path / "half.ckpt")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    curve = next(callback for callback in trainer.callbacks if isinstance(callback, QualityCurve))
    assert [step for step, _, _ in curve.points] == [4, 8]
    assert whole.model.gate is not None
    assert whole.model.pruner is not None
    assert float(whole.model.gate.alpha) == 100.0
    assert float(whole.model.pruner.gamma) > 0


def test_the_seed_decides_the_run(tmp_path: Path) -> None:
    tables = []
    for seed in (0, 0, 1):
        task = make_task(seed=seed)
        fit(task, tmp_path, 3)
        tables.append(task.model.encoding.table.detach())
    assert torch.equal(tables[0], tables[1])
    assert not torch.equal(tables[0], tables[2])


def test_testing_measures_and_shows_every_view(tmp_path: Path) -> None:
    task = make_task()
    trainer = fit(task, tmp_path, 2)
    trainer.test(task, datamodule=TwoViews(2), verbose=False)
    assert {"test/psnr", "test/ssim"} <= set(trainer.callback_metrics)
    views = task.report_sections()[-1]
    assert views.title == "Test views"
    assert len(views.pictures) == 2
    assert [row[0] for row in views.tables[0].rows] == ["left", "right", "mean"]


def test_lpips_is_measured_where_its_weights_are_given(tmp_path: Path) -> None:
    save_file(formula_weights("alex"), tmp_path / "alex.safetensors")
    scores = ViewScores(lpips_weights=str(tmp_path / "alex.safetensors"))
    picture = torch.rand(40, 48, 3, generator=torch.Generator().manual_seed(0))
    same, inverted = scores(picture, picture), scores(picture, 1 - picture)
    assert set(same) == {"psnr", "ssim", "lpips"}
    assert float(same["lpips"]) == pytest.approx(0, abs=1e-6)
    assert float(inverted["lpips"]) > 0.01
    assert not [key for key in make_task(scores=scores).state_dict() if "lpips" in key]
    with pytest.raises(ValueError, match=r"absent\.pth: no such file"):
        ViewScores(lpips_weights="absent.pth")


def test_a_step_without_samples_changes_nothing(tmp_path: Path) -> None:
    task = make_task()
    task.renderer.occupancy.update_every = 1000
    task.renderer.occupancy.warmup_steps = 0
    task.renderer.occupancy.binaries.fill_(False)
    before = task.model.encoding.table.detach().clone()
    task.renderer.update_occupancy = lambda *_: None  # type: ignore[method-assign]
    trainer = fit(task, tmp_path, 2)
    assert trainer.global_step == 2
    assert torch.equal(task.model.encoding.table, before)


def test_the_saliency_grid_has_its_own_learning_rate() -> None:
    configured = make_task(saliency_lr_scale=3.0).configure_optimizers()
    rates = [group["lr"] for group in configured["optimizer"].param_groups]
    assert rates == pytest.approx([1e-2, 3e-2])


def test_the_budget_follows_the_samples() -> None:
    budget = RayBudget(target_samples=1000, initial_rays=100, min_rays=10, max_rays=400)
    seen = []
    for num_samples in (500, 4000, 1, 10**9):
        budget.update(num_samples)
        seen.append(int(budget.num_rays))
    assert seen == [200, 50, 400, 10]
    restored = RayBudget(initial_rays=100)
    restored.load_state_dict(budget.state_dict())
    assert int(restored.num_rays) == 10
    fixed = RayBudget(target_samples=None, initial_rays=100)
    fixed.update(5)
    assert int(fixed.num_rays) == 100
    with pytest.raises(ValueError, match="initial_rays: found 5"):
        RayBudget(initial_rays=5, min_rays=10)


def test_schedules() -> None:
    def rates(make, steps: int) -> list[float]:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        schedule = make(optimizer)
        found = []
        for _ in range(steps):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return found

    decay = rates(functools.partial(exponential_decay, total_steps=10, final=0.01), 11)
    assert [decay[0], decay[5], decay[10]] == pytest.approx([1.0, 0.1, 0.01])
    steps = rates(functools.partial(multi_step_decay, total_steps=100, warmup_steps=2, warmup_start=0.5), 91)
    assert [steps[0], steps[1], steps[2], steps[50], steps[75], steps[90]] == pytest.approx(
        [0.5, 0.75, 1.0, 0.33, 0.33**2, 0.33**3]
    )
    with pytest.raises(ValueError, match="total_steps"):
        rates(functools.partial(exponential_decay, total_steps=0), 1)
