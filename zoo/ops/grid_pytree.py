"""Grids, kernel maps and sparse tensors as pytrees, so that compiled and exported regions take them with prebuilt maps.

A grid is flattened into the tensors of everything that its cached maps reach: the submanifold maps, the strided grids
made from it and their maps, and the grids that it was made from. Maps onto explicit output sites are not part of it;
pass those as `KernelMap` arguments to `apply_kernel_map`.
"""

from __future__ import annotations

import copy
import dataclasses
import weakref
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from zoo.ops.kernel_map import ConvGeometry, KernelMap
from zoo.ops.sparse_tensor import SparseTensor
from zoo.ops.voxel_grid import Origin, Sites, VoxelGrid

Result = TypeVar("Result")
MapIndex = tuple[int, int, int, tuple[int, ...]]  # positions of the three tensors, kernel size


class GridNode(NamedTuple):
    """One grid of a flattened set; numbers are positions in the list of tensors or of grids."""

    coords: int
    order: int | None
    spatial_shape: tuple[int, ...]
    batch_size: int
    submanifold: tuple[tuple[ConvGeometry, MapIndex], ...]
    strided: tuple[tuple[Any, int], ...]
    origin: tuple[int, MapIndex] | None


class _Packer:
    """Walks over the grids that are reachable from one and numbers their tensors."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self.nodes: list[GridNode | None] = []
        self._tensor_index: dict[int, int] = {}
        self._node_index: dict[int, int] = {}

    def add(self, grid: VoxelGrid) -> int:
        sites = grid._sites
        known = self._node_index.get(id(sites))
        if known is not None:
            return known
        index = self._node_index[id(sites)] = len(self.nodes)
        self.nodes.append(None)
        node = GridNode(
            coords=self._tensor(sites.coords),
            order=None if sites.order is None else self._tensor(sites.order),
            spatial_shape=sites.spatial_shape,
            batch_size=sites.batch_size,
            submanifold=tuple((geometry, self._map(found)) for geometry, found in grid.maps.submanifold.items()),
            strided=tuple((key, self.add(made)) for key, made in grid.maps.strided.items()),
            origin=self._origin(sites.origin),
        )
        self.nodes[index] = node
        return index

    def _origin(self, origin: Origin | None) -> tuple[int, MapIndex] | None:
        if origin is None:
            return None
        parent = origin.grid() if origin.grid is not None else None
        if parent is None:
            parent = VoxelGrid.from_sites(origin.sites)
        return self.add(parent), self._map(origin.kernel_map)

    def _map(self, found: KernelMap) -> MapIndex:
        pairs_in, pairs_out = self._tensor(found.pairs_in), self._tensor(found.pairs_out)
        return pairs_in, pairs_out, self._tensor(found.offsets), found.kernel_size

    def _tensor(self, tensor: Tensor) -> int:
        index = self._tensor_index.setdefault(id(tensor), len(self.tensors))
        if index == len(self.tensors):
            self.tensors.append(tensor)
        return index


def _flatten_grid(grid: VoxelGrid) -> tuple[list[Tensor], tuple[GridNode, ...]]:
    packer = _Packer()
    packer.add(grid)
    return packer.tensors, tuple(node for node in packer.nodes if node is not None)


def _unflatten_grid(tensors: Any, nodes: tuple[GridNode, ...]) -> VoxelGrid:
    tensors = list(tensors)

    def kernel_map(index: MapIndex) -> KernelMap:
        return KernelMap(tensors[index[0]], tensors[index[1]], tensors[index[2]], index[3])

    grids = []
    for node in nodes:
        order = None if node.order is None else tensors[node.order]
        grids.append(VoxelGrid.from_sites(Sites(tensors[node.coords], node.spatial_shape, node.batch_size, order)))
    for node, grid in zip(nodes, grids, strict=True):
        grid.maps.submanifold.update((geometry, kernel_map(index)) for geometry, index in node.submanifold)
        grid.maps.strided.update((key, grids[made]) for key, made in node.strided)
        if node.origin is not None:
            parent = grids[node.origin[0]]
            grid._sites.origin = Origin(parent._sites, kernel_map(node.origin[1]), weakref.ref(parent))
    grids[0].maps.vendor["companions"] = grids[1:]  # the grids that it was made from live as long as it
    return grids[0]


def _flatten_sparse(x: SparseTensor) -> tuple[list[Tensor], tuple[GridNode, ...]]:
    tensors, nodes = _flatten_grid(x.grid)
    return [x.features, *tensors], nodes


def _unflatten_sparse(leaves: Any, nodes: tuple[GridNode, ...]) -> SparseTensor:
    features, *tensors = leaves
    x = SparseTensor.__new__(SparseTensor)  # leaves need not be tensors
    x.features, x.grid = features, _unflatten_grid(tensors, nodes)
    return x


def _flatten_map(kernel_map: KernelMap) -> tuple[list[Tensor], tuple[int, ...]]:
    return [kernel_map.pairs_in, kernel_map.pairs_out, kernel_map.offsets], kernel_map.kernel_size


def _unflatten_map(leaves: Any, kernel_size: tuple[int, ...]) -> KernelMap:
    pairs_in, pairs_out, offsets = leaves
    return KernelMap(pairs_in, pairs_out, offsets, kernel_size)


def _with_keys(flatten: Any) -> Any:
    def flatten_with_keys(value: Any) -> Any:
        leaves, context = flatten(value)
        return [(pytree.SequenceKey(index), leaf) for index, leaf in enumerate(leaves)], context

    return flatten_with_keys


def register() -> None:
    """Register the three types; called once, when `zoo.ops` is imported."""
    types: list[tuple[type, Any, Any, Any]] = [
        (VoxelGrid, _flatten_grid, _unflatten_grid, _decode_nodes),
        (SparseTensor, _flatten_sparse, _unflatten_sparse, _decode_nodes),
        (KernelMap, _flatten_map, _unflatten_map, _decode),
    ]
    torch.serialization.add_safe_globals([VoxelGrid, SparseTensor, KernelMap, Sites])
    for kind, flatten, unflatten, decode in types:
        pytree.register_pytree_node(
            kind,
            flatten,
            unflatten,
            serialized_type_name=f"zoo.ops.{kind.__name__}",
            to_dumpable_context=_encode,
            from_dumpable_context=decode,
            flatten_with_keys_fn=_with_keys(flatten),
        )


def _encode(context: Any) -> Any:
    """Nested tuples as JSON: tuples become lists, geometries objects."""
    if isinstance(context, ConvGeometry):
        return {"geometry": _encode(dataclasses.astuple(context))}
    return [_encode(item) for item in context] if isinstance(context, tuple) else context


def _decode(context: Any) -> Any:
    if isinstance(context, dict):
        return ConvGeometry(*_decode(context["geometry"]))
    return tuple(_decode(item) for item in context) if isinstance(context, list) else context


def _decode_nodes(context: Any) -> tuple[GridNode, ...]:
    return tuple(GridNode(*node) for node in _decode(context))


def build_maps(model: nn.Module, x: SparseTensor) -> SparseTensor:
    """Make every kernel map and strided grid that a model needs for ``x``, without computing any feature.

    The model runs on meta tensors; the maps stay on ``x.grid``. Use it before a compiled or exported region, which
    takes grids but does not make maps.

    Args:
        model: A network that takes a `SparseTensor`; left as it is.
        x: Its input.

    Returns:
        ``x``, for chaining.

    Example:
        >>> import torch
        >>> from zoo.models.layers.sparse_conv import SubMConv1d
        >>> x = SparseTensor.from_coords(torch.ones(2, 1), torch.tensor([[0, 1], [0, 2]]), (4,), 1)
        >>> len(build_maps(SubMConv1d(1, 4, 3), x).grid.maps.submanifold)
        1
    """
    ghost = copy.deepcopy(model).to("meta")
    with torch.no_grad():
        ghost(x.replace_feature(x.features.detach().to("meta")))
    return x
