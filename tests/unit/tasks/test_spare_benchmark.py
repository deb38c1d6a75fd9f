"""A submission from a split: trained, interrupted, continued, packed, scored, and refused for another request."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.smoke.twins import SAMPLES
from zoo.data.spare_scene import SpareFolder
from zoo.data.spare_submission import check_submission
from zoo.training.spare_benchmark import SpareBenchmark


def benchmark(tmp_path: Path, **options) -> SpareBenchmark:
    tiny = [line for line in SAMPLES["zoo.data.spare_data.SpareData"] if not line.startswith("data=")]
    return SpareBenchmark(
        **{
            "folder": tmp_path / "out",
            "experiment": "spare_field_plain",
            "size": (40, 30),
            "overrides": (*tiny, f"paths.data_dir={tmp_path}", "trainer.max_steps=2", "threads=1"),
            **options,
        }
    )


@pytest.mark.parametrize("experiment", ["spare_field_plain", "spare_gaussians"])
def test_a_submission_from_a_split(experiment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = benchmark(tmp_path, experiment=experiment)
    folder = first.run()
    root = next(tmp_path.glob("synthetic_spare_*"))
    scenes = SpareFolder(root).split(1)
    assert check_submission(folder / "submission.zip", scenes, size=(40, 30)) == []
    scores = json.loads((folder / "scores.json").read_text())
    assert {"psnr", "psnr_m", "ssim"} <= scores["data_sets"]["synth"].keys()
    assert "gaussian_valid" in scores["figures"]
    whole = (folder / "submission.zip").read_bytes()

    (folder / "submission.zip").unlink()  # killed between training and packing
    next((folder / "renders").rglob("*.png")).unlink()
    monkeypatch.setattr("zoo.training.spare_benchmark.run_session", lambda *_, **__: pytest.fail("trained again"))
    first.run()
    assert (folder / "submission.zip").read_bytes() == whole
    with pytest.raises(ValueError, match="holds results of"):
        benchmark(tmp_path, experiment=experiment, track=2).run()
    with pytest.raises(ValueError, match=r"scenes: found \['Teapot'\]"):
        benchmark(tmp_path, experiment=experiment, scenes=("Teapot",)).run()
