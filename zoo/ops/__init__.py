"""Stateless functions on tensors, and the data types they share: sparse voxels, hash grids, rays and Gaussians."""

if __name__ != "zoo.ops":
    raise ImportError(
        f"this package was imported as {__name__!r}; import it as 'zoo.ops' (the root link `ops` is a short name for people)"
    )

from zoo.ops.spherical_harmonics import spherical_harmonics

__all__ = ["spherical_harmonics"]
