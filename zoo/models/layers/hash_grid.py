"""The trainable hash grid."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from zoo.ops.hash_encoding import hash_encode
from zoo.ops.hash_grid_layout import HashGridLayout

# Names of the table in foreign files, by convention.
_FOREIGN_TABLES = {"tcnn": "params", "torch_ngp": "embeddings", "nerfstudio": "hash_table"}


class HashGrid(nn.Module):
    """A multi-resolution hash grid: `zoo.ops.hash_encode` with a table of its own.

    State: ``table`` (rows, F); ``offsets`` (L + 1,) and ``resolutions`` (L,) int64, the sizes it was trained with: they
    win over what this machine computes. Also loaded are the keys of tiny-cuda-nn (``params``, flat), torch-ngp
    (``embeddings``, ``offsets``) and nerfstudio (``hash_table``), each by a grid of its convention.

    Args:
        layout: Sizes and convention.
        init_scale: The table starts uniform in [-init_scale, init_scale]; None is the convention's own: 1e-4, or 1e-3
            of nerfstudio.

    Example:
        >>> grid = HashGrid(HashGridLayout.build(num_levels=4, log2_table_size=10))
        >>> grid(torch.rand(5, 3)).shape
        torch.Size([5, 8])
    """

    offsets: Tensor
    resolutions: Tensor

    def __init__(self, layout: HashGridLayout, *, init_scale: float | None = None) -> None:
        super().__init__()
        self.layout = layout
        if init_scale is None:
            init_scale = 1e-3 if layout.convention == "nerfstudio" else 1e-4
        self.table = nn.Parameter(torch.empty(layout.num_rows, layout.features_per_level))
        nn.init.uniform_(self.table, -init_scale, init_scale)
        self.register_buffer("offsets", torch.tensor(layout.offsets))
        self.register_buffer("resolutions", torch.tensor([level.resolution for level in layout.levels]))

    @property
    def output_dim(self) -> int:
        """L F, the width of the encoding."""
        return self.layout.output_dim

    def forward(self, x: Tensor) -> Tensor:
        """Encode points ``(N, D)``, mostly in [0, 1], to ``(N, L F)``."""
        return hash_encode(x, self.table, self.layout)

    def extra_repr(self) -> str:
        """The layout in short."""
        layout = self.layout
        return (
            f"{layout.convention}, {layout.num_levels} levels x {layout.features_per_level} features, "
            f"{layout.num_rows} rows, resolution {layout.levels[0].resolution} to {layout.levels[-1].resolution}"
        )

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *rest: Any
    ) -> None:
        errors: list[str] = rest[-1]
        table_key, foreign_key = prefix + "table", prefix + _FOREIGN_TABLES[self.layout.convention]
        if table_key not in state_dict and foreign_key in state_dict:
            table = state_dict.pop(foreign_key)
            is_flat = table.dim() == 1 and table.numel() == self.table.numel()
            state_dict[table_key] = table.reshape(self.table.shape) if is_flat else table
            state_dict.setdefault(prefix + "offsets", self.offsets)
            state_dict.setdefault(prefix + "resolutions", self.resolutions)
        self._adopt_sizes(state_dict, prefix, errors.append)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)

    def _adopt_sizes(self, state_dict: dict[str, Any], prefix: str, report: Callable[[str], None]) -> None:
        """Take over stored sizes that differ from the computed ones, if they belong to a table of this size."""
        own = list(self.layout.offsets), [level.resolution for level in self.layout.levels]
        offsets = [int(row) for row in state_dict.get(prefix + "offsets", own[0])]
        resolutions = [int(size) for size in state_dict.get(prefix + "resolutions", own[1])]
        if (offsets, resolutions) == own:
            return
        try:
            self.layout = self.layout.with_sizes(offsets, resolutions)
        except ValueError as error:
            report(f"{prefix}offsets: {error}")
