"""Stateless functions on tensors, and the data types they share: sparse voxels, hash grids, rays and Gaussians."""

if __name__ != "zoo.ops":
    raise ImportError(
        f"this package was imported as {__name__!r}; import it as 'zoo.ops' (the root link `ops` is for people)"
    )

from zoo.ops.backend import active_backend, set_backend, use_backend
from zoo.ops.grid_keys import sort_keys
from zoo.ops.kernel_map import KernelMap, build_kernel_map, downsample
from zoo.ops.sparse_conv import (
    apply_kernel_map,
    sparse_conv,
    sparse_conv_transpose,
    sparse_inverse_conv,
    subm_conv,
)
from zoo.ops.sparse_pool import global_avg_pool, global_max_pool, sparse_avg_pool, sparse_max_pool
from zoo.ops.sparse_tensor import SparseTensor, cat_channels, cat_samples
from zoo.ops.spherical_harmonics import spherical_harmonics
from zoo.ops.voxel_grid import VoxelGrid

__all__ = [
    "KernelMap",
    "SparseTensor",
    "VoxelGrid",
    "active_backend",
    "apply_kernel_map",
    "build_kernel_map",
    "cat_channels",
    "cat_samples",
    "downsample",
    "global_avg_pool",
    "global_max_pool",
    "set_backend",
    "sort_keys",
    "sparse_avg_pool",
    "sparse_conv",
    "sparse_conv_transpose",
    "sparse_inverse_conv",
    "sparse_max_pool",
    "spherical_harmonics",
    "subm_conv",
    "use_backend",
]
