"""GridFormer: surfaces from point clouds by attention between points and grids."""

from zoo.models.gridformer.network import GridFormer, GridFormerDecoder, GridFormerEncoder, Maps, remap_upstream

__all__ = ["GridFormer", "GridFormerDecoder", "GridFormerEncoder", "Maps", "remap_upstream"]
