"""Counter-based random numbers: a draw is a pure function of its key, in any order, on any device.

Sample order and every draw of a view come from here, keyed by (purpose, seed, epoch, image index, view, …) and never
from the ambient generator. So a resumed run sees what the undisturbed run saw, and the number of processes or of
workers changes nothing.

The hash chains the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) over the parts of the key, in int64
arithmetic that wraps around, which torch does alike on every device.
"""

import hashlib

import torch
from torch import Tensor

Key = int | str | Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # the constants of SplitMix64, as signed 64-bit integers
_MULTIPLIER_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MULTIPLIER_2 = 0x94D049BB133111EB - (1 << 64)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)  # logical: int64 shifts carry the sign


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _MULTIPLIER_1
    x = (x ^ _shift_right(x, 27)) * _MULTIPLIER_2
    return x ^ _shift_right(x, 31)


def _part(key: Key, device: torch.device) -> Tensor:
    if isinstance(key, str):
        key = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little", signed=True)
    return torch.as_tensor(key, dtype=torch.int64, device=device)


def bits(*key: Key) -> Tensor:
    """64 random bits, as int64, for each element of the broadcast key. Strings and integers are constants of the key;
    integer tensors give it its shape and its device."""
    device = next((part.device for part in key if isinstance(part, Tensor)), torch.device("cpu"))
    state = torch.zeros((), dtype=torch.int64, device=device)
    for part in key:
        state = _mix((state + _GOLDEN) ^ _mix(_part(part, device) + _GOLDEN))
    return state


def uniform(*key: Key) -> Tensor:
    """A float32 in [0, 1), a multiple of 2⁻²⁴, for each element of the broadcast key."""
    return _shift_right(bits(*key), 40).to(torch.float32) * 2.0**-24


def integers(high: int, *key: Key) -> Tensor:
    """An int64 in 0 … high − 1 for each element of the broadcast key (high up to 2³⁰; bias below high · 2⁻³³)."""
    return _shift_right(bits(*key), 31) % high


def permutation(n: int, *key: Key) -> Tensor:
    """A permutation of 0 … n − 1, shape (n,), on the CPU."""
    return torch.argsort(bits(*key, torch.arange(n)), stable=True)
