"""Types of arrays, under the short names that signatures use."""

from typing import Any

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.integer[Any]]
Floats = npt.NDArray[np.floating[Any]]  # of any precision
Floats16 = npt.NDArray[np.float16]
Floats32 = npt.NDArray[np.float32]
Floats64 = npt.NDArray[np.float64]
