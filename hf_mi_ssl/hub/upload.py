"""Sends files to the Hub in a process of its own, which `push` starts: a network that hangs ends it, not the run.

The job is JSON on stdin, the token what `huggingface_hub` finds; the last line on stdout says what came of it. It is
started as a file and imports nothing of this package, so that it starts at once.
"""

import hashlib
import json
import os
import signal
import sys
import threading
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.hf_api import RepoFile

TOKENS = "https://huggingface.co/settings/tokens"
WAYS_OUT = {
    401: "the token is not valid: `hf auth login`, or set HF_TOKEN",
    403: f"the token may not do that: take one with the right to write ({TOKENS}), or another --hub_model_id",
    404: "the repository is not there, or the token may not see it: check --hub_model_id and the token",
    409: "somebody else changed the repository meanwhile: try again",
    412: "somebody else changed the repository meanwhile: try again",
    413: "it takes no files of that size",
    429: "too many requests: wait a few minutes, then try again",
}


class PushError(Exception):
    """What is wrong, and the way out."""


def upload(job: dict) -> str:
    """Bring a repository to hold these files, in one commit, and compare; returns what was done.

    `job` has `repo_id`, `private`, `revision` (None is main; another holds these files and no others), `files`, from
    path in the repository to path here, and `texts`, to content; `own`, patterns of what a push would hold: of these
    nothing stays that is no longer here.
    """
    api, repo_id, revision = HfApi(), job["repo_id"], job["revision"]
    contents = {path: Path(file) for path, file in job["files"].items()}
    contents |= {path: text.encode() for path, text in job["texts"].items()}
    api.create_repo(repo_id, private=job["private"] or None, exist_ok=True)
    if job["private"] and not api.repo_info(repo_id).private:
        raise PushError(f"{repo_id} exists and is public: make it private there, or leave --hub_private_repo out")
    if revision:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    changed, others = compare(api, repo_id, revision, contents)
    operations = [CommitOperationAdd(path, contents[path]) for path in changed]
    gone = [path for path in others if revision or any(fnmatch(path, pattern) for pattern in job["own"])]
    operations += [CommitOperationDelete(path) for path in gone if path != ".gitattributes"]
    where = f"{api.endpoint}/{repo_id}" + (f"/tree/{revision}" if revision else "")
    if not operations:
        return f"{where} has all {len(contents)} files already"
    message = f"Upload {revision or 'encoder, whole model and evidence'} with hf_mi_ssl"
    api.create_commit(repo_id, operations, commit_message=message, revision=revision)
    if left := compare(api, repo_id, revision, contents)[0]:
        raise PushError(f"what arrived in {repo_id} differs from what was sent: {', '.join(left)}; try again")
    return f"pushed {len(changed)} of {len(contents)} files to {where}"


def compare(api: HfApi, repo_id: str, revision: str | None, contents: dict) -> tuple[list[str], list[str]]:
    """The paths that the repository lacks or has otherwise, and those that it has beside these."""
    tree = api.list_repo_tree(repo_id, recursive=True, revision=revision)
    there = {file.path: file for file in tree if isinstance(file, RepoFile)}
    changed = [path for path in contents if path not in there or not is_same(there[path], contents[path])]
    return changed, [path for path in there if path not in contents]


def is_same(there: RepoFile, content: Path | bytes) -> bool:
    """Whether a file of the repository has this content, by size and digest."""
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    if size != (there.lfs.size if there.lfs else there.size):
        return False
    if there.lfs and isinstance(content, Path):
        with content.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == there.lfs.sha256
    data = content if isinstance(content, bytes) else content.read_bytes()
    if there.lfs:
        return hashlib.sha256(data).hexdigest() == there.lfs.sha256
    return hashlib.sha1(b"blob %d\0" % size + data).hexdigest() == there.blob_id


def explain(error: BaseException, repo_id: str) -> str:
    """One line for what went wrong: the innermost cause that says something, and the way out."""
    host, causes = HfApi().endpoint, [error]
    while cause := causes[-1].__cause__ or causes[-1].__context__:
        causes.append(cause)
    for cause in causes:
        if isinstance(cause, HfHubHTTPError):
            status = cause.response.status_code
            said = f" ({cause.server_message.splitlines()[0]})" if cause.server_message else ""
            way_out = WAYS_OUT.get(status, "try again later" if status >= 500 else "it was not accepted")
            return f"{host} answered {status}{said} for {repo_id}: {way_out}"
        if isinstance(cause, OfflineModeIsEnabled):
            return "HF_HUB_OFFLINE forbids the network: unset it"
        if type(cause).__module__.startswith("httpx"):
            name = type(cause).__name__
            lost = "no connection to" if name in ("ConnectError", "ConnectTimeout") else "the connection broke to"
            return f"{lost} {host} ({name}): check the network, then try again"
        if isinstance(cause, OSError) and cause.strerror:
            return f"{cause.filename or 'a file'}: {cause.strerror}"
    return f"{type(error).__name__}: {error}"


def end_with_parent(alive: int) -> None:
    """End this process when the pipe is closed at its other end: the run was interrupted or killed."""
    os.read(alive, 1)
    os._exit(1)


def main() -> int:
    job = json.load(sys.stdin)
    threading.Thread(target=end_with_parent, args=[job["alive"]], daemon=True).start()
    signal.setitimer(signal.ITIMER_REAL, job["deadline"])  # ends this process, whatever it waits for
    try:
        said, code = upload(job), 0
    except PushError as error:
        said, code = str(error), 1
    except Exception as error:  # huggingface_hub, its HTTP client and the file system raise every kind
        said, code = explain(error, job["repo_id"]), 1
    token = get_token()
    print("\n" + " ".join(said.replace(token, "…").split() if token else said.split()))
    return code


if __name__ == "__main__":
    sys.exit(main())
