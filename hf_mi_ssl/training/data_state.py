"""What a run has to keep of its data: which images are bad, as every process found them."""

from accelerate.utils import gather_object

from ..data import Part


class DataState:
    """A part of a `TrainingState`, beside model and optimiser. Its methods are for all processes together."""

    def __init__(self, train: Part):
        self.report = train.report

    def bad_images(self) -> dict[str, int]:
        """How many bad images of which kind all processes have found so far; writes their list.

        Raises:
            UserError: with exit code 1, if there are more than may be.
        """
        self.report.merge(gather_object([self.report.entries()]))
        self.report.write()
        self.report.check()
        return self.report.kinds()

    def summary(self) -> str:
        """A line on bad images, if there are any."""
        return f"\n{self.report.summary()}: see {self.report.path.name}" if self.report.found else ""

    def state_dict(self) -> dict:
        self.bad_images()
        return {"bad": self.report.entries()}

    def load_state_dict(self, state: dict) -> None:
        self.report.merge([state.get("bad", [])])
