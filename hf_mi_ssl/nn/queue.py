"""First in, first out: target embeddings of earlier batches, as negatives or as neighbours."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Queue(nn.Module):
    """The last `size` target embeddings, (K, D); random directions until there are as many (MoCo, arXiv 1911.05722).

    Its content and position are persistent buffers: a resumed run has the negatives of the undisturbed one. Any number
    of rows may be pushed, whether or not it divides K.
    """

    def __init__(self, size: int, dimension: int):
        super().__init__()
        self.register_buffer("embeddings", F.normalize(torch.randn(size, dimension), dim=1))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def push(self, z: Tensor) -> None:
        """Replace the oldest embeddings by the rows of z, (N, D); of more than K rows the last K."""
        size = len(self.embeddings)
        z = z[-size:]
        places = (self.position + torch.arange(len(z), device=z.device)) % size  # on the device: the host never waits
        self.embeddings.index_copy_(0, places, z.to(self.embeddings.dtype))
        self.position.copy_((self.position + len(z)) % size)

    def nearest(self, z: Tensor) -> Tensor:
        """For each row of z, (N, D), the embedding with the largest cosine, (N, D)."""
        with torch.autocast(z.device.type, enabled=False):  # in half precision, neighbours are hard to tell apart
            z = z.to(self.embeddings.dtype)
            return self.embeddings[(F.normalize(z, dim=1) @ F.normalize(self.embeddings, dim=1).T).argmax(1)]
