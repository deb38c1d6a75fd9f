"""Small twins of the experiments: the same recipe on a few tiny samples that the package generates."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from zoo.training.configuration import compose

_STREETS = (
    "data=synthetic_kitti",
    "data.source.generator.num_train=2",
    "data.source.generator.num_val=1",
    "data.source.generator.num_test=1",
    "data.source.generator.sensor.beams=24",
    "data.source.generator.sensor.azimuth_steps=700",
    "data.num_workers=0",
)
_SHAPES = (
    "data=synthetic_shapes",
    "data.source.generator.num_train=2",
    "data.source.generator.num_test=1",
    "data.source.generator.num_points=128",
    "data.batch_size=4",
    "data.num_workers=0",
)
_PICTURES = (
    "data=synthetic_pictures",
    "data.source.generator.num_train=2",
    "data.source.generator.num_test=1",
    "data.source.generator.size=64",
    "data.train_transforms.crop.size=64",
    "data.eval_transforms.resize.size=64",
    "data.batch_size=4",
    "data.num_workers=0",
)
SAMPLES: dict[str, tuple[str, ...]] = {  # what stands in for the data of a recipe, by the class that reads it
    "zoo.data.radiance_fields.RadianceFieldData": (
        "data=synthetic_scene",
        "data.generator.image_size=16",
        "data.generator.samples=1",
        "data.generator.num_train=4",
        "data.generator.num_val=2",
        "data.generator.num_test=2",
    ),
    "zoo.data.modelnet.ModelNet": _SHAPES,
    "zoo.data.occupancy_sets.OccupancySet": (
        "data=synthetic_solids",
        "data.source.generator.num_train=1",
        "data.source.generator.num_val=1",
        "data.source.generator.num_test=1",
        "data.source.generator.num_points=3000",
        "data.source.generator.num_surface=400",
        "data.source.generator.num_test_surface=400",
        "data.num_input_points=200",
        "data.num_queries=64",
        "data.batch_size=2",
        "data.num_workers=0",
    ),
    "zoo.data.surface_cloud.SurfaceCloud": ("mesh_or_points=null", "data.num_points=500"),
    "zoo.data.voxel_shapes.VoxelShapes": (*_SHAPES, "data.feature_names=[coord]"),
    "zoo.data.semantic_kitti_points.SemanticKittiPoints": (
        "data=tiny_street",  # in configs/data here
        "data.batch_size=2",
        "data.num_workers=0",
    ),
    "zoo.data.image_folder.ImageFolder": _PICTURES,
    "zoo.data.imagenet.ImageNet": _PICTURES,
    "zoo.data.joined_pictures.JoinedPictures": _PICTURES,
    "zoo.data.spare_data.SpareData": (
        "data=synthetic_spare",
        "data.generator.width=40",
        "data.generator.height=30",
        "data.generator.samples=1",
        "data.generator.num_scenes=1",
        "data.generator.num_test=2",
    ),
    "zoo.data.kitti_detection.KittiSource": _STREETS,
    "zoo.data.waymo_detection.WaymoSource": (
        *_STREETS,
        "data.source.rename={Car:Vehicle}",
        "data.source.extra_classes=[Sign]",
        "data.fade.names=[gt_sampling]",
        "data.point_dim=5",
        "data.box_dim=9",
    ),
    "zoo.data.nuscenes_detection.NuScenesSource": (
        *_STREETS,
        "data.source.rename={Car:car,Truck:truck,Pedestrian:pedestrian,Cyclist:bicycle}",
        "data.source.extra_classes=[construction_vehicle,bus,trailer,barrier,motorcycle,traffic_cone]",
        "data.point_dim=5",
        "data.box_dim=9",
    ),
}
MODELS: dict[str, tuple[str, ...]] = {  # what makes full-size networks small enough for a test, by what makes them
    "zoo.models.gridpull.DistanceGrid": (
        "model.resolution=20",
        "task.level=3",
        "task.num_queries=200",
        "task.num_scored=2000",
    ),
    "zoo.models.gridformer.GridFormer": (
        "model.channels=8",
        "model.resolution=16",
        "task.mesh_resolution=16",
        "task.mesh_samples=2000",
    ),
    "zoo.models.dsvt.DSVT": (
        "model.bev_blocks=[0,0,0]",
        "model.bev_strides=[4,1,1]",
        "model.bev_channels=[8,8,8]",
        "model.bev_up_strides=[1,1,1]",
        "model.bev_up_channels=[8,8,8]",
    ),
    "zoo.models.spark.voxels.SparK3D": ("model.enc_channels=[8,8]", "model.enc_depths=[1,1]", "model.decoder_width=16"),
    "zoo.models.e3dsnn.E3DSNNClassifier": (
        "model.num_classes=14",
        "model.embed_channels=8",
        "model.enc_channels=[8,8,8,8]",
        "model.enc_depths=[1,1,1,1]",
    ),
    "zoo.models.e3dsnn.E3DSNNSegmentor": (
        "model.embed_channels=8",
        "model.enc_channels=[8,8,8,8]",
        "model.enc_depths=[1,1,1,1]",
        "model.dec_channels=[8,8,8,8]",
    ),
    "zoo.models.e3dsnn.E3DSNNDetector": (
        "model.voxel_size=[0.2,0.2,0.2]",
        "model.channels=[4,4,8,8]",
        "model.depth=1",
        "model.out_channels=8",
        "model.bev_layers=[0,0]",
        "model.bev_channels=[8,8]",
        "model.bev_up_channels=[8,8]",
        "model.roi_head.grid_size=2",
        "model.roi_head.pool_channels=8",
        "model.roi_head.shared_channels=[8,8]",
        "model.roi_head.task_channels=[8,8]",
        "model.roi_head.num_sampled=16",
    ),
    "zoo.models.spark.SparK": ("model.decoder_width=64",),
    "zoo.models.spark.ImageClassifier": ("model.num_classes=10",),
    "zoo.models.spark.backbones.resnet": ("model.backbone.depths=[1,1,1,1]", "model.backbone.channels=[8,16,32,64]"),
    "zoo.models.spark.ConvNeXt": ("model.backbone.depths=[1,1,1,1]", "model.backbone.dims=[8,16,32,64]"),
    "zoo.models.spark.SmallResNet": ("model.backbone.depths=[1,1,1]", "model.backbone.width=16"),
}


def _small_field(recipe: DictConfig) -> tuple[str, ...]:
    """Coarse grids and few samples, which still adapt where the recipe's do."""
    adapts = recipe.task.budget.target_samples is not None
    return (
        "model.log2_table_size=12",
        "task.renderer.occupancy.resolution=24",
        f"task.renderer.step_size={4 * recipe.task.renderer.step_size}",
        "task.budget.initial_rays=128",
        *(["task.budget.target_samples=8192"] if adapts else []),
    )


def twin(name: str, data_dir: Path, steps: int) -> tuple[str, ...]:
    """Overrides that make the small twin of an experiment.

    Args:
        name: The experiment.
        data_dir: Where the generated samples go.
        steps: Of training; validation comes in the middle and at the end.
    """
    recipe = compose([f"experiment={name}"])
    data = recipe.data
    reader, kept = (data.source if "source" in data else data)._target_, ()
    if "class_names" in data:  # a detector keeps its classes and range, which its size depends on
        kept = (
            f"data.class_names=[{','.join(data.class_names)}]",
            f"data.point_range={list(data.point_range)}",
            "data.batch_size=1",
        )
    return (
        f"experiment={name}",
        *SAMPLES[reader],
        *kept,
        *MODELS.get(recipe.model._target_, ()),
        *(_small_field(recipe) if "renderer" in recipe.task else ()),
        *(MODELS[recipe.model.backbone._target_] if "backbone" in recipe.model else ()),
        f"paths.data_dir={data_dir}",
        f"trainer.max_steps={steps}",
        f"trainer.val_check_interval={max(1, steps // 2)}",
        "trainer.check_val_every_n_epoch=null",
        "trainer.accelerator=cpu",
        "trainer.strategy=auto",
        "trainer.devices=1",
        "threads=1",
    )
