"""Turn a checkpoint of solo-learn, lightly, FAIR, torchvision or timm into an encoder that `AutoModel` loads.

    python recipes/import_checkpoint.py resnet50.pth --source vicreg --output_dir imported/vicreg
    python recipes/import_checkpoint.py vicreg-cifar10-ep=999.ckpt --output_dir imported/solo
    python recipes/import_checkpoint.py vit.safetensors --encoder timm/vit_tiny_patch16_224 --output_dir imported/vit

Writes the encoder, its image processor, a card, and `import.json` with where it comes from. Where the method is known,
`method.json` is its row with coefficients in our convention: continue with

    accelerate launch recipes/pretrain_jmi.py --config imported/vicreg/method.json --init_from imported/vicreg …

Only tensors are read from pickled files; what else may be in them is refused, not run.
"""

import sys
from collections import Counter
from pathlib import Path

from hf_mi_ssl.training import RecipeParser, run_downstream

CARD = Path(__file__).resolve().parent.parent / "model_cards" / "imported_card.md"


def main() -> None:
    parser = RecipeParser(__doc__)
    parser.add_argument("checkpoint", help="file of torch.save or safetensors")
    parser.add_argument("--output_dir", required=True, help="where the encoder is written")
    parser.add_argument("--source", help="library, or method of FAIR; default: told from the names in the checkpoint")
    parser.add_argument("--encoder", help="timm/<name>, where it is no ResNet of transformers")
    parser.add_argument("--arguments", metavar="FILE", help="solo-learn's args.json; default: beside the checkpoint")
    parser.add_argument("--image_size", type=int, help="side of its images; default: 224, or 32 for a 3×3 stem")
    for name in ("mean", "std"):
        help = f"{name} of the images it was trained on, by channel; default: its data set's, else ImageNet's"
        parser.add_argument(f"--{name}", type=float, nargs="+", help=help)
    args = vars(parser.parse_args())
    # What takes seconds to import, now that the arguments are known to be right.
    from hf_mi_ssl.hub.importers import import_checkpoint, write_imported

    path, output_dir = args.pop("checkpoint"), args.pop("output_dir")
    imported = import_checkpoint(path, **args)
    write_imported(imported, output_dir, path, CARD)

    encoder = imported.encoder
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    print(f"{imported.source}: {type(encoder).__name__}, {parameters / 1e6:.1f} M parameters, all given")
    print(f"images of {imported.image_size} pixels, mean {imported.mean}, std {imported.std}")
    parts = Counter(name.partition(".")[0] for name in imported.left)
    print(f"left out: {', '.join(f'{part} ({n})' for part, n in parts.items()) or 'nothing'}")
    if imported.row:
        columns = ", ".join(f"{name}={value}" for name, value in imported.row["set"].items())
        print(f"row: {imported.row['method']}{f' with {columns}' if columns else ''}")
    print(f"written to {output_dir}")


if __name__ == "__main__":
    sys.exit(run_downstream(main))
