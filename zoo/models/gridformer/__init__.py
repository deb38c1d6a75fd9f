"""GridFormer: surfaces from point clouds by attention between points and grids."""

from zoo.models.gridformer.network import GridFormer, GridFormerDecoder, GridFormerEncoder, Maps, remap_upstream
from zoo.models.gridformer.sliding_window import SlidingWindow
from zoo.models.gridformer.surface import occupancy_surface, occupancy_surface_near

__all__ = [
    "GridFormer",
    "GridFormerDecoder",
    "GridFormerEncoder",
    "Maps",
    "SlidingWindow",
    "occupancy_surface",
    "occupancy_surface_near",
    "remap_upstream",
]
