"""voxelzoo: sparse 3D vision models over one layer of sparse-voxel, hash-grid, ray and Gaussian ops."""

__version__ = "0.1.0"
