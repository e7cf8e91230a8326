"""An encoder as a program that needs neither transformers nor this package: ONNX, or one of torch.export."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import UserError, first_line


class Representation(nn.Module):
    """pixel_values (n, 3, H, W) -> h (n, D)"""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.encoder(pixel_values).pooler_output.flatten(1)


def traced(model: Representation, size: int) -> torch.export.ExportedProgram:
    """The program, for any number of images of `size` pixels a side."""
    channels = getattr(model.encoder.config, "num_channels", 3)
    try:
        with torch.no_grad():
            example = (torch.zeros(2, channels, size, size),)
            return torch.export.export(model, example, dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    except Exception as error:  # each architecture has its own way of refusing
        reason = first_line(error)
        raise UserError(
            f"cannot export the encoder for images of {size} pixels: {reason}; see --image_size"
        ) from error


def save_onnx(program: torch.export.ExportedProgram, path: Path) -> Callable[[Tensor], Tensor]:
    try:
        import onnxruntime

        names = {"input_names": ["pixel_values"], "output_names": ["representation"]}
        torch.onnx.export(program, (), path, **names, dynamo=True, external_data=False, verbose=False)
    except ImportError as error:
        raise UserError(f"ONNX needs {error.name}: pip install 'hf-mi-ssl[export]'") from error
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda pixels: torch.from_numpy(session.run(None, {"pixel_values": pixels.numpy()})[0])


def save_program(program: torch.export.ExportedProgram, path: Path) -> Callable[[Tensor], Tensor]:
    program.example_inputs = None  # they would be pickled
    torch.export.save(program, path)
    return torch.export.load(path).module()


def difference(model: Representation, exported: Callable[[Tensor], Tensor], size: int) -> float:
    """The largest difference in any dimension of h, over one image and over five."""
    channels = getattr(model.encoder.config, "num_channels", 3)
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(n, channels, size, size, generator=generator) for n in (1, 5)]
    with torch.no_grad():
        return max((exported(pixels) - model(pixels)).abs().max().item() for pixels in batches)
