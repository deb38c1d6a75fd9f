"""Stateless functions on tensors, and the data types they share: sparse voxels, hash grids, rays and Gaussians."""

if __name__ != "zoo.ops":
    raise ImportError(
        f"this package was imported as {__name__!r}; import it as 'zoo.ops' (the root link `ops` is for people)"
    )

from zoo.ops.backend import active_backend, set_backend, use_backend
from zoo.ops.box_iou import boxes_aligned_iou, boxes_iou_3d, boxes_iou_bev, boxes_overlap_bev
from zoo.ops.box_nms import nms_rotated, nms_rotated_per_class
from zoo.ops.compositing import RenderedRays, render_rays
from zoo.ops.devoxelize import devoxelize, voxels_to_points
from zoo.ops.frequency_encoding import frequency_encode
from zoo.ops.gaussian_colors import gaussian_colors
from zoo.ops.gaussian_projection import (
    GAUSSIAN_RULES,
    GaussianRules,
    ProjectedGaussians,
    gaussian_covariances,
    project_gaussians,
)
from zoo.ops.gaussian_rasterization import RasterizedGaussians, rasterize_gaussians
from zoo.ops.gaussian_rendering import RenderedGaussians, render_gaussians
from zoo.ops.gaussian_tiles import GaussianTiles, intersect_gaussian_tiles
from zoo.ops.grid_keys import sort_keys
from zoo.ops.grid_pytree import build_maps, register
from zoo.ops.grid_sample import GridSample, fnv_keys, grid_sample_points
from zoo.ops.hash_encoding import HashGridLayout, grid_rows, hash_encode
from zoo.ops.heatmap import draw_heatmap, gaussian_radius
from zoo.ops.importance_sampling import importance_sampling, searchsorted, transform_stot
from zoo.ops.interpolate import three_interpolate
from zoo.ops.kernel_map import KernelMap, build_kernel_map, downsample
from zoo.ops.map_conv import apply_kernel_map
from zoo.ops.neighbors import (
    BallNeighbors,
    Neighbors,
    ball_query,
    furthest_point_sample,
    interpolate_features,
    knn,
)
from zoo.ops.open3d_clouds import sparse_from_open3d, sparse_to_open3d
from zoo.ops.packed import exclusive_prod, exclusive_sum, inclusive_prod, inclusive_sum, pack_info
from zoo.ops.point_grid import PointCells, cell_attention, grid_to_rows, point_cells, rows_to_grid, sample_point_grid
from zoo.ops.point_tree import PointTree
from zoo.ops.points_in_boxes import points_in_boxes, points_in_boxes_mask
from zoo.ops.rays import RaySamples, march_rays, ray_aabb_intersect
from zoo.ops.scatter_to_bev import scatter_to_bev
from zoo.ops.segment import segment_max, segment_mean, segment_min, segment_sum
from zoo.ops.segment_softmax import segment_softmax
from zoo.ops.set_attention import SlotSets, set_attention, slot_attention, slot_sets
from zoo.ops.set_partition import SetPartition, Windows, set_partition, window_partition
from zoo.ops.sparse_conv import (
    sparse_conv,
    sparse_conv_transpose,
    sparse_inverse_conv,
    subm_conv,
)
from zoo.ops.sparse_pool import global_avg_pool, global_max_pool, sparse_avg_pool, sparse_max_pool
from zoo.ops.sparse_tensor import SparseTensor, cat_channels, cat_samples
from zoo.ops.spherical_harmonics import spherical_harmonics
from zoo.ops.spike_conv import break_even_density, spike_conv, spike_linear
from zoo.ops.spike_counts import spike_counts
from zoo.ops.ssim import ssim_map
from zoo.ops.volume_rendering import (
    accumulate_along_rays,
    render_transmittance_from_alpha,
    render_transmittance_from_density,
    render_visibility_from_alpha,
    render_visibility_from_density,
    render_weight_from_alpha,
    render_weight_from_density,
    render_weights_from_alpha,
    render_weights_from_density,
)
from zoo.ops.voxel_grid import VoxelGrid
from zoo.ops.voxelize import (
    DynamicVoxels,
    HardVoxels,
    dynamic_voxelize,
    points_to_sparse,
    points_to_voxel_mean,
    voxelize,
)

register()  # grids and kernel maps as pytrees

__all__ = [
    "GAUSSIAN_RULES",
    "BallNeighbors",
    "DynamicVoxels",
    "GaussianRules",
    "GaussianTiles",
    "GridSample",
    "HardVoxels",
    "HashGridLayout",
    "KernelMap",
    "Neighbors",
    "PointCells",
    "PointTree",
    "ProjectedGaussians",
    "RasterizedGaussians",
    "RaySamples",
    "RenderedGaussians",
    "RenderedRays",
    "SetPartition",
    "SlotSets",
    "SparseTensor",
    "VoxelGrid",
    "Windows",
    "accumulate_along_rays",
    "active_backend",
    "apply_kernel_map",
    "ball_query",
    "boxes_aligned_iou",
    "boxes_iou_3d",
    "boxes_iou_bev",
    "boxes_overlap_bev",
    "break_even_density",
    "build_kernel_map",
    "build_maps",
    "cat_channels",
    "cat_samples",
    "cell_attention",
    "devoxelize",
    "downsample",
    "draw_heatmap",
    "dynamic_voxelize",
    "exclusive_prod",
    "exclusive_sum",
    "fnv_keys",
    "frequency_encode",
    "furthest_point_sample",
    "gaussian_colors",
    "gaussian_covariances",
    "gaussian_radius",
    "global_avg_pool",
    "global_max_pool",
    "grid_rows",
    "grid_sample_points",
    "grid_to_rows",
    "hash_encode",
    "importance_sampling",
    "inclusive_prod",
    "inclusive_sum",
    "interpolate_features",
    "intersect_gaussian_tiles",
    "knn",
    "march_rays",
    "nms_rotated",
    "nms_rotated_per_class",
    "pack_info",
    "point_cells",
    "points_in_boxes",
    "points_in_boxes_mask",
    "points_to_sparse",
    "points_to_voxel_mean",
    "project_gaussians",
    "rasterize_gaussians",
    "ray_aabb_intersect",
    "render_gaussians",
    "render_rays",
    "render_transmittance_from_alpha",
    "render_transmittance_from_density",
    "render_visibility_from_alpha",
    "render_visibility_from_density",
    "render_weight_from_alpha",
    "render_weight_from_density",
    "render_weights_from_alpha",
    "render_weights_from_density",
    "rows_to_grid",
    "sample_point_grid",
    "scatter_to_bev",
    "searchsorted",
    "segment_max",
    "segment_mean",
    "segment_min",
    "segment_softmax",
    "segment_sum",
    "set_attention",
    "set_backend",
    "set_partition",
    "slot_attention",
    "slot_sets",
    "sort_keys",
    "sparse_avg_pool",
    "sparse_conv",
    "sparse_conv_transpose",
    "sparse_from_open3d",
    "sparse_inverse_conv",
    "sparse_max_pool",
    "sparse_to_open3d",
    "spherical_harmonics",
    "spike_conv",
    "spike_counts",
    "spike_linear",
    "ssim_map",
    "subm_conv",
    "three_interpolate",
    "transform_stot",
    "use_backend",
    "voxelize",
    "voxels_to_points",
    "window_partition",
]
