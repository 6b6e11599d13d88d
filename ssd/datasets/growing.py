"""Arrays of unknown length that are filled in blocks."""

from __future__ import annotations

import numpy as np


class Growing:
    """An array whose first axis grows: one allocation that is enlarged, not a list of blocks, whose
    concatenation would need the memory twice."""

    def __init__(self, dtype, columns: int = 0):
        """columns: 0 for a flat array, else those of an array (n, columns)."""
        self._shape = (columns,) if columns else ()
        self._array, self._used = np.zeros((0, *self._shape), dtype), 0

    def __len__(self) -> int:
        return self._used

    def add(self, block) -> None:
        """Appends rows."""
        block = np.asarray(block, self._array.dtype).reshape(-1, *self._shape)
        if self._used + len(block) > len(self._array):
            # Only this object refers to the array until take(), so it may be moved.
            capacity = max(self._used + len(block), len(self._array) * 5 // 4, 1024)
            self._array.resize((capacity, *self._shape), refcheck=False)
        self._array[self._used : self._used + len(block)] = block
        self._used += len(block)

    def take(self) -> np.ndarray:
        """The rows so far; the object is empty afterwards."""
        array, self._array = self._array, np.zeros((0, *self._shape), self._array.dtype)
        array.resize((self._used, *self._shape), refcheck=False)
        self._used = 0
        return array
