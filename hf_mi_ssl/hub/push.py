"""Publishing a run: which of its files go to the Hub, and a push that can fail without harm to the run."""

import json
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import huggingface_hub
from huggingface_hub.constants import is_offline_mode
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..errors import ExitCode, UserError
from .card import PLACES
from .evidence import EVIDENCE, read_object
from .export import export_encoder
from .text import public

# What is pushed of a run's directory: never its checkpoints, nor what somebody else may have laid beside them.
FILES = ("README.md", "config.json", "model*.safetensors", "model.safetensors.index.json", "preprocessor_config.json",
         "configuration_mi_resnet.py", "modeling_mi_resnet.py", "training_args.json", "metrics.jsonl", "results.json",
         "knn.json", "linear_probe.json", "finetune.json", "figures/*.png",
         "pretraining/*.json", "pretraining/*.safetensors")  # fmt: skip
REVISIONS = "revisions"  # the directory of a run's revisions that are not on the Hub yet

logger = logging.getLogger(__name__)


def check_hub(repo_id: str | None) -> None:
    """Whether a push to `repo_id` can be tried at all; asks nobody.

    Raises:
        UserError: if the id is missing or malformed, there is no token, or the network is forbidden.
    """
    if not repo_id:
        raise UserError("--hub_model_id is missing: give OWNER/NAME, the repository to push to")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"--hub_model_id {repo_id!r}: {error}") from error
    if "/" not in repo_id:
        raise UserError(f"--hub_model_id {repo_id!r} must be OWNER/NAME, the owner a user or an organisation")
    if is_offline_mode():
        raise UserError("HF_HUB_OFFLINE forbids to push: unset it, or push afterwards with recipes/push_to_hub.py")
    if huggingface_hub.get_token() is None:
        raise UserError("no token to push with: `hf auth login`, or set HF_TOKEN to one with the right to write")


def push(
    directory: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    card: str | None = None,
    deadline: float | None = None,
) -> str:
    """Bring a repository of the Hub to hold the files of a run, in one commit; returns what was done.

    Files that are there already are not sent again, so a second push finishes the first. Digests are compared in the
    end. Nothing in `directory` is changed.

    Args:
        directory: the output of a run, or an exported encoder.
        repo_id: OWNER/NAME; made if it is not there.
        private: make it private; a repository that is public already is refused.
        revision: a branch, made if it is not there, that then holds these files and no others; default: main.
        card: README.md, in place of the one in `directory`.
        deadline: seconds until it is given up; default: ten minutes, and one second more for each megabyte.

    Raises:
        UserError: with its exit code and what to do, if it did not succeed.
    """
    directory = Path(directory)
    files = {str(file.relative_to(directory)): file for pattern in FILES for file in directory.glob(pattern)}
    for name, file in files.items():  # a link may lead to what is secret
        if not file.resolve().is_relative_to(directory.resolve()):
            raise UserError(f"{name} is a link to a place outside {directory}: put the file itself there")
    if not {"config.json", "preprocessor_config.json"} <= set(files):
        raise UserError(f"{directory} holds no encoder to push: give the --output_dir of a finished run")
    texts = {} if card is None else {"README.md": card}
    texts |= {name: _without_places(files[name]) for name in ("training_args.json", *EVIDENCE) if name in files}
    if deadline is None:
        deadline = 600 + sum(file.stat().st_size for file in files.values()) / 1e6
    job = {"repo_id": repo_id, "private": private, "revision": revision, "deadline": deadline, "texts": texts}
    job["own"] = FILES
    job["files"] = {path: str(file.absolute()) for path, file in files.items() if path not in texts}
    # Its warnings could name signed addresses; its bars would cut through those of training.
    bars = sys.stderr.isatty() and threading.current_thread() is threading.main_thread()
    job["alive"], here = os.pipe()  # closed when this process ends, however it does
    try:
        done = subprocess.run(
            # -P: what lies beside the script is not importable
            [sys.executable, "-P", str(Path(__file__).with_name("upload.py"))],
            env=os.environ | {"HF_HUB_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "0" if bars else "1"},
            input=json.dumps(job),
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C ends it through the pipe, without a traceback of its own
            pass_fds=[job["alive"]],
            check=False,
        )
    finally:
        os.close(job["alive"])
        os.close(here)
    if done.returncode == -signal.SIGALRM:
        said, done.returncode = f"no end of the push to {repo_id} after {deadline:.0f} seconds: try again", 1
    else:
        said = ["", *done.stdout.strip().splitlines()][-1]
    if done.returncode:
        said = said or f"the push to {repo_id} was ended ({done.returncode}): try again"
        raise UserError(said, exit_code=ExitCode.NOT_PUSHED)
    return said


def _without_places(file: Path) -> str:
    """A JSON object of the run without where things lay on its machine: paths are their last name, or left out."""

    def told(value):
        if isinstance(value, dict):
            return {key: told(inner) for key, inner in value.items() if key not in PLACES}
        if isinstance(value, list):
            return [told(inner) for inner in value]
        return Path(value).name if public(value) is None and value is not None else value

    return json.dumps(told(read_object(file)), indent=2, ensure_ascii=False) + "\n"


def publish(run_dir: str | Path, repo_id: str, *, private: bool = False, card: str | None = None) -> list[str]:
    """Push the revisions of a run that are still to be pushed, then the run; returns what was done."""
    said = push_revisions(run_dir, repo_id, private=private)
    return [*said, push(run_dir, repo_id, private=private, card=card)]


def push_revisions(run_dir: str | Path, repo_id: str, *, private: bool = False) -> list[str]:
    """Push each exported revision to the branch of its name, and remove it here; returns what was done."""
    said = []
    for config in sorted(Path(run_dir).glob(f"{REVISIONS}/*/config.json")):  # written last: the others are complete
        said.append(push(config.parent, repo_id, private=private, revision=config.parent.name))
        shutil.rmtree(config.parent)
    return said


class Publisher:
    """The pushes of a run that is asked for them: of revisions beside its training, of everything at its end.

    What fails is a warning with the command that finishes it. Only the main process pushes.

    Args:
        args: the arguments of the run: `push_to_hub`, `hub_model_id`, `hub_private_repo`, `output_dir`, `image_size`.
        is_main_process: whether this process is the one.

    Raises:
        UserError: as `check_hub`, before anything is trained.
    """

    def __init__(self, args, is_main_process: bool):
        if args.push_to_hub:
            check_hub(args.hub_model_id)
        elif args.hub_revision_epochs:
            raise UserError("--hub_revision_epochs needs --push_to_hub")
        self.args, self.active = args, args.push_to_hub and is_main_process
        self.thread: threading.Thread | None = None

    def revise(self, revision: str | None, encoder, recipe) -> None:
        """Export the encoder as that revision, if it has a name, and push it while training goes on. `recipe` is that
        of the first view, for its mean and std."""
        if revision is None or not self.active:
            return
        directory = Path(self.args.output_dir) / REVISIONS / revision
        try:
            size, mean, std = self.args.image_size, recipe.mean, recipe.std
            export_encoder(encoder, directory, image_size=size, mean=mean, std=std)
        except OSError as error:
            logger.warning("%s is not published: %s", revision, error)
            return
        if self.thread is None or not self.thread.is_alive():  # else it is pushed with the next
            self.thread = threading.Thread(target=self._try, args=[push_revisions], daemon=True)
            self.thread.start()

    def finish(self) -> None:
        """Push what is left, after the run has written everything."""
        if self.active:
            for line in self._try(self._rest):
                print(line)

    def _rest(self, *where, **how) -> list[str]:
        if self.thread is not None:
            self.thread.join()
        return publish(*where, **how)

    def _try(self, what) -> list[str]:
        run_dir, repo_id, private = self.args.output_dir, self.args.hub_model_id, self.args.hub_private_repo
        try:
            return what(run_dir, repo_id, private=private)
        except (UserError, OSError, KeyboardInterrupt) as error:
            reason = "interrupted" if isinstance(error, KeyboardInterrupt) else error
            command = f"python recipes/push_to_hub.py {shlex.quote(str(run_dir))} --hub_model_id {repo_id}"
            command += " --hub_private_repo" * private
            logger.warning("not pushed: %s. The run is not affected; this finishes the push: %s", reason, command)
            return []
