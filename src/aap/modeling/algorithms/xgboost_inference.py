"""Trees: what a booster says of a few rows, asked of xgboost's library without its Python wrapper.

`Booster.inplace_predict` calls `XGBoosterPredictFromDense` of xgboost's C API, and so does this: the answers are the
same to the last bit. One row is what most calls ask about, and around one row the wrapper takes twice as long as the
trees, and the library itself as long again for asking the system how many processors it may use, unless it is given
the same proxy matrix every time.
"""

from __future__ import annotations

import ctypes
import threading
import weakref

import numpy as np
import xgboost as xgb
from xgboost.libpath import find_lib_path

__all__ = ["predict"]

_LIBRARY = ctypes.CDLL(find_lib_path()[0])  # the one xgboost has loaded already
_LIBRARY.XGBGetLastError.restype = ctypes.c_char_p
_FLOATS, _SHAPE = ctypes.POINTER(ctypes.c_float), ctypes.POINTER(ctypes.c_uint64)
_ANSWER = b"""{"training": false, "type": %d, "iteration_begin": 0, "iteration_end": 0, "missing": NaN, "strict_shape": false,
"cache_id": 0}"""
_VALUE, _MARGIN = _ANSWER % 0, _ANSWER % 1
_PROXY = threading.local()
_ROWS = b'{"data":[%d,true],"shape":[%d,%d],"typestr":"%s","version":3}'


def predict(booster: xgb.Booster, values: np.ndarray, *, margin: bool = False) -> np.ndarray:
    """What `booster` says of each row of `values`, float64 `[n]`: its objective's value, or the `margin` before it.

    `values` float32 or float64 `[n, n_features]`, NaN where unknown. The booster is one that has one answer a row.
    Raises `XGBoostError`, as the wrapper does, and `ValueError` for rows of another width.
    """
    if not len(values):
        return np.empty(0)
    rows = np.ascontiguousarray(values)
    if rows.shape[1] != booster.num_features():
        raise ValueError(f"The trees read {booster.num_features()} columns and were given {rows.shape[1]}.")
    address, _ = rows.__array_interface__["data"]
    told = _ROWS % (address, *rows.shape, rows.dtype.str.encode())
    shape, dimensions, found = _SHAPE(), ctypes.c_uint64(), _FLOATS()
    out = ctypes.byref(shape), ctypes.byref(dimensions), ctypes.byref(found)
    _check(_LIBRARY.XGBoosterPredictFromDense(booster.handle, told, _MARGIN if margin else _VALUE, _proxy(), *out))
    # Copied, for it is the library's own memory until this thread asks again.
    return np.frombuffer(ctypes.string_at(found, 4 * len(rows)), np.float32).astype(np.float64)


class _Proxy:
    """What the library passes rows on by; one a thread."""

    def __init__(self) -> None:
        self.handle = ctypes.c_void_p()
        _check(_LIBRARY.XGProxyDMatrixCreate(ctypes.byref(self.handle)))
        weakref.finalize(self, _LIBRARY.XGDMatrixFree, self.handle)


def _proxy() -> ctypes.c_void_p:
    if not hasattr(_PROXY, "of_thread"):
        _PROXY.of_thread = _Proxy()
    handle: ctypes.c_void_p = _PROXY.of_thread.handle
    return handle


def _check(status: int) -> None:
    if status:
        raise xgb.core.XGBoostError(_LIBRARY.XGBGetLastError().decode())
