"""`hf-mi-ssl check-data`: look at every image of a data set before a run does."""

import sys

from ..errors import UserError, printable
from ..training.parsing import parse_arguments

DESCRIPTION = """Decode every image that a run with the same flags would read, and print a table of what is wrong.

    hf-mi-ssl check-data --dataset_name imagefolder --data_dir my_photos

Flags are those of the pre-training recipes, --config among them; those that are not about data change nothing. The
exit code is 1 if an image cannot be read, else 0."""


def main(argv: list[str]) -> int:
    """The command; returns its exit code."""
    try:
        args = parse_arguments(argv, DESCRIPTION)
        from tqdm import tqdm

        from ..data import BadImages, evaluation_split, load_corpus, read_all

        report = BadImages(max_fraction=1.0)
        names = ("dataset_name", "data_dir", "data_files", "image_column_name", "label_column_name")
        source = {name: args.data_arguments()[name] for name in names}
        train = load_corpus(split=args.train_split, **source)
        splits = [args.train_split, args.eval_split or evaluation_split(train.available_splits, args.train_split)]
        total = 0
        for split in filter(None, splits):
            corpus = train if split == args.train_split else load_corpus(split=split, **source)
            with tqdm(total=len(corpus), desc=f"reading {split}", unit="img", disable=None) as bar:
                for read in read_all(corpus, args.dataloader_num_workers, args.dataloader_timeout, report):
                    bar.update(read)
            total += len(corpus)
    except UserError as error:
        print(f"hf-mi-ssl check-data: {error}", file=sys.stderr)
        return error.exit_code
    columns = ("split", "row", "kind", "file", "reason")
    rows = [[printable(str(entry[key])) if entry[key] is not None else "" for key in columns]
            for entry in report.entries()]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    print(f"{total:,} images read: {report.summary() if rows else 'all good'}")
    return 1 if rows else 0
