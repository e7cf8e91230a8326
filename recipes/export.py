"""Turn an encoder into one file that needs neither transformers nor this package: ONNX, or a program of torch.export.

    python recipes/export.py runs/my_photos --format onnx
    python recipes/export.py facebook/dinov2-small --format torch_export --image_size 224

The file maps `pixel_values` (n, 3, H, W), made by the image processor beside it, to the representation h (n, D), for
any number of images of one size. It is run and compared with the encoder; where they differ by more than 1e-4 nothing
is written. ONNX needs `pip install 'hf-mi-ssl[export]'`.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoImageProcessor

from hf_mi_ssl.encoders import load_encoder
from hf_mi_ssl.errors import UserError
from hf_mi_ssl.evaluation import input_of
from hf_mi_ssl.training import RecipeParser, default_output_dir, run_downstream

FILES = {"onnx": "encoder.onnx", "torch_export": "encoder.pt2"}
TOLERANCE = 1e-4


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
        reason = str(error).strip().splitlines()[0]
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


def main() -> None:
    parser = RecipeParser(__doc__)
    parser.add_argument("model", help="directory or Hub id of an encoder")
    parser.add_argument("--format", choices=FILES, default="onnx", help="default: %(default)s")
    parser.add_argument("--image_size", type=int, help="side of its images; default: what its image processor says")
    parser.add_argument("--output_dir", help="default: the encoder's directory; of a Hub id, runs/ and its name")
    args = parser.parse_args()
    model = Representation(load_encoder(args.model))
    size = args.image_size or input_of(args.model).get("size", 224)
    program = traced(model, size)
    directory = Path(args.output_dir or default_output_dir(args.model))
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / FILES[args.format]
    with tempfile.TemporaryDirectory(prefix=".export-", dir=directory) as temporary:
        save = save_onnx if args.format == "onnx" else save_program
        largest = difference(model, save(program, Path(temporary) / path.name), size)
        if not largest <= TOLERANCE:
            raise UserError(f"{path.name} and the encoder differ by {largest:.2g}: not written", exit_code=1)
        (Path(temporary) / path.name).replace(path)
    if input_of(args.model) and not (directory / "preprocessor_config.json").exists():
        AutoImageProcessor.from_pretrained(args.model, trust_remote_code=False).save_pretrained(directory)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, images of {size} pixels")
    print(f"largest difference from the encoder: {largest:.2g} (at most {TOLERANCE:g})")


if __name__ == "__main__":
    sys.exit(run_downstream(main))
