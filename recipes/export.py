"""Turn an encoder into one file that needs neither transformers nor this package: ONNX, or a program of torch.export.

    python recipes/export.py runs/my_photos --format onnx
    python recipes/export.py facebook/dinov2-small --format torch_export --image_size 224

The file maps `pixel_values` (n, 3, H, W), made by the image processor beside it, to the representation h (n, D), for
any number of images of one size. It is run and compared with the encoder; where they differ by more than 1e-4 nothing
is written. ONNX needs `pip install 'hf-mi-ssl[export]'`.
"""

import sys
import tempfile
from pathlib import Path

from hf_mi_ssl.errors import UserError
from hf_mi_ssl.training import RecipeParser, default_output_dir, run_downstream

FILES = {"onnx": "encoder.onnx", "torch_export": "encoder.pt2"}
TOLERANCE = 1e-4


def main() -> None:
    parser = RecipeParser(__doc__)
    parser.add_argument("model", help="directory or Hub id of an encoder")
    parser.add_argument("--format", choices=FILES, default="onnx", help="default: %(default)s")
    parser.add_argument("--image_size", type=int, help="side of its images; default: what its image processor says")
    parser.add_argument("--output_dir", help="default: the encoder's directory; of a Hub id, runs/ and its name")
    args = parser.parse_args()
    # What takes seconds to import, now that the arguments are known to be right.
    from transformers import AutoImageProcessor

    from hf_mi_ssl.encoders import load_encoder
    from hf_mi_ssl.evaluation import input_of
    from hf_mi_ssl.hub import programs

    model = programs.Representation(load_encoder(args.model))
    size = args.image_size or input_of(args.model).get("size", 224)
    program = programs.traced(model, size)
    directory = Path(args.output_dir or default_output_dir(args.model))
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / FILES[args.format]
    with tempfile.TemporaryDirectory(prefix=".export-", dir=directory) as temporary:
        save = programs.save_onnx if args.format == "onnx" else programs.save_program
        largest = programs.difference(model, save(program, Path(temporary) / path.name), size)
        if not largest <= TOLERANCE:
            raise UserError(f"{path.name} and the encoder differ by {largest:.2g}: not written", exit_code=1)
        (Path(temporary) / path.name).replace(path)
    if input_of(args.model) and not (directory / "preprocessor_config.json").exists():
        AutoImageProcessor.from_pretrained(args.model, trust_remote_code=False).save_pretrained(directory)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, images of {size} pixels")
    print(f"largest difference from the encoder: {largest:.2g} (at most {TOLERANCE:g})")


if __name__ == "__main__":
    sys.exit(run_downstream(main))
