"""What a run says while it trains: a line for each evaluation, aligned, under the progress bar and in a log file."""

from collections.abc import Mapping

from tqdm import tqdm

_MI = "eval/mi/cos_dv"
# heading, width, and the text of a record
_COLUMNS = {
    "step": ("step", 8, lambda r: f"{r['step']:,}"),
    "epoch": ("epoch", 8, lambda r: f"{r['epoch']:.4g}"),
    "value": ("J − M", 10, lambda r: f"{r['value']:.4g}"),
    _MI: ("MI of z, nats", 24, lambda r: f"{r[_MI]:.2f} ({r[f'{_MI}/low']:.2f} to {r[f'{_MI}/high']:.2f})"),
    f"{_MI}/ceiling": ("ceiling", 9, lambda r: f"{r[f'{_MI}/ceiling']:.2f}"),
    "eval/rank/rankme": ("RankMe", 9, lambda r: f"{r['eval/rank/rankme']:.1f}"),
    "eval/knn_top1": ("kNN", 9, lambda r: f"{100 * r['eval/knn_top1']:.1f} %"),
    "images_per_second": ("images/s", 10, lambda r: f"{r['images_per_second']:,.0f}"),
}


class ProgressTable:
    """Prints the records of evaluations as they come.

    J − M is the mean of the steps since the last one; MI is cos-DV, a lower bound, with its 95 % interval."""

    def __init__(self):
        self.begun = False
        self._begin()

    def _begin(self) -> None:
        self.total, self.steps, self.rate = 0.0, 0, None

    def __call__(self, record: Mapping) -> None:
        """Take in a record of `metrics.jsonl`; print it if it is one of an evaluation."""
        if "loss" in record:
            self.rate = record["images_per_second"]
            if record["value"] is not None:
                self.total, self.steps = self.total + record["value"], self.steps + 1
            return
        if not self.begun:
            self._print(heading.rjust(width) for heading, width, _ in _COLUMNS.values())
        self.begun = True
        record = record | ({"value": self.total / self.steps} if self.steps else {})
        record |= {} if self.rate is None else {"images_per_second": self.rate}
        self._begin()
        self._print((text(record) if key in record else "").rjust(width) for key, (_, width, text) in _COLUMNS.items())

    @staticmethod
    def _print(cells) -> None:
        tqdm.write("".join(cells).rstrip())  # above the bar, where there is one
