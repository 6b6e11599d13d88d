"""Rows of each image by their positions."""

from __future__ import annotations


def gather(F, rows, index):
    """rows (B, N, k) at index (B, M) to (B, M, k)."""
    batch = F.broadcast_like(F.reshape(F.contrib.arange_like(index, axis=0), (-1, 1)), index)
    return F.gather_nd(rows, F.stack(batch, index, axis=0))
