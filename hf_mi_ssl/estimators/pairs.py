"""What pairs have to be before anything is said of them."""

from torch import Tensor

from ..errors import UserError


def check_pairs(z_a: Tensor, z_b: Tensor, least: int, one_size: bool = False) -> None:
    """Raises UserError unless the tensors are (N, D) and (N, E), N ≥ least, finite, and D = E if of `one_size`."""
    if z_a.ndim != 2 or z_b.ndim != 2 or len(z_a) != len(z_b) or len(z_a) < least:
        shapes = f"{[*z_a.shape]} and {[*z_b.shape]}"
        raise UserError(f"pairs need two tensors (N, D) and (N, E), N ≥ {least}; got {shapes}")
    if one_size and z_a.shape != z_b.shape:
        raise UserError(f"a cosine needs embeddings of one size, not {z_a.shape[1]} and {z_b.shape[1]}")
    if not (z_a.isfinite().all() and z_b.isfinite().all()):
        raise UserError("embeddings hold NaN or infinity, so mutual information is undefined; check the checkpoint")
