"""A small Hub in this process: real HTTP, commits in memory, one store of large files, and faults on demand.

It speaks what `huggingface_hub` asks of a Hub to create, push to, list and load model repositories over LFS. It proves
our calls and what arrives, not the real Hub's quotas, nor its xet storage. HF_MI_SSL_TEST_ENDPOINT and
HF_MI_SSL_TEST_TOKEN name another Hub, for all tests but those that inject faults.
"""

import base64
import hashlib
import json
import os
import re
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import huggingface_hub
import pytest
from huggingface_hub import HfApi

LARGE = (".safetensors", ".png")
ELSEWHERE = os.environ.get("HF_MI_SSL_TEST_ENDPOINT")


class Place:
    """A Hub that is pushed to, and whose token is used; what is made there gets its name here."""

    def __init__(self, url: str, token: str):
        self.api, self.url, self.token = HfApi(url, token), url, token
        self.owner = self.api.whoami()["name"]
        self.made: list[str] = []

    def name(self, what: str) -> str:
        """The id of a repository that nobody else has."""
        self.made.append(f"{self.owner}/hf-mi-ssl-test-{what}-{uuid.uuid4().hex[:8]}")
        return self.made[-1]

    def files(self, repo_id: str, revision: str | None = None) -> set[str]:
        return set(self.api.list_repo_files(repo_id, revision=revision)) - {".gitattributes"}

    def read(self, repo_id: str, path: str, revision: str | None = None) -> bytes:
        return Path(self.api.hf_hub_download(repo_id, path, revision=revision)).read_bytes()


@contextmanager
def hub(home: Path, server: "HubServer | None" = None) -> Iterator[Place]:
    """The Hub of the tests, and the environment of somebody who asks it and keeps things in `home`: the one that the
    environment names, else `server` or one of our own. What was made elsewhere is removed in the end."""
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        url, token = ELSEWHERE, os.environ.get("HF_MI_SSL_TEST_TOKEN")
        settings = {"HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
        if not ELSEWHERE:
            server = server or stack.enter_context(HubServer())
            url, token = server.url, server.token
            settings["HF_HUB_DISABLE_XET"] = "1"
        for name, value in (settings | {"HF_ENDPOINT": url, "HF_TOKEN": token}).items():
            patch.setenv(name, value)
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(home / "hub"))
        place = Place(url, token)
        yield place
        for repo_id in place.made if ELSEWHERE else ():
            place.api.delete_repo(repo_id, missing_ok=True)


@dataclass
class Fault:
    """What becomes of the next `times` requests whose "METHOD /path" matches.

    `kind` is a status to answer with, or: `cut`, the connection ends in the middle of the request's body; `hang`, no
    answer comes; `slow`, it comes late; `corrupt`, a byte of the answer is wrong; `short`, the answer ends half-way.
    """

    match: str
    kind: int | str
    times: int = 1_000_000


class HubServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, token: str = "hf_" + "t" * 34, user: str = "tester"):
        super().__init__(("127.0.0.1", 0), Handler)
        self.token, self.user = token, user
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repos: dict[str, dict] = {}  # {"private", "refs": {name: commit}, "commits": {commit: {path: content}}}
        self.large: dict[str, bytes] = {}
        self.log: list[tuple[str, int]] = []  # ("METHOD /path", bytes of its body)
        self.faults: list[Fault] = []
        self.lock, self.closing = threading.RLock(), threading.Event()

    def __enter__(self):
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *exception):
        self.closing.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), ConnectionError):  # a client that went away
            super().handle_error(request, client_address)

    def requests(self, match: str) -> list[tuple[str, int]]:
        return [(line, size) for line, size in self.log if re.search(match, line)]

    def content(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """Path -> bytes of a revision."""
        repo = self.repos[repo_id]
        files = repo["commits"][repo["refs"].get(revision, revision)]
        return {path: self.large[data] if isinstance(data, str) else data for path, data in files.items()}

    def fault(self, line: str) -> int | str | None:
        for fault in self.faults:
            if fault.times and re.search(fault.match, line):
                fault.times -= 1
                return fault.kind
        return None


def blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *arguments):
        pass

    def answer(self, value=None, status: int = 200, data: bytes = b"", headers: dict | None = None):
        body = data if value is None else json.dumps(value).encode()
        if self.kind == "corrupt" and body:
            body = body[:-1] + bytes([body[-1] ^ 1])
        self.send_response(status)
        for name, text in (
            {"Content-Type": "application/json", "Content-Length": len(body)} | (headers or {})
        ).items():
            self.send_header(name, str(text))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if self.kind == "short" else body)
        if self.kind == "short":
            self.close_connection = True

    def refuse(self, status: int, code: str = "", message: str = "", headers: dict | None = None):
        headers = {"X-Error-Code": code, "X-Error-Message": message} | (headers or {})
        self.answer({"error": message or code}, status, headers=headers)

    def body(self) -> bytes:
        size = int(self.headers.get("Content-Length") or 0)
        if self.kind == "cut":
            self.rfile.read(size // 2)
            raise ConnectionError
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(size)
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def handle_any(self):
        path = unquote(urlsplit(self.path).path)
        self.kind = self.server.fault(f"{self.command} {path}")
        try:
            body = self.body()
        except ConnectionError:
            self.connection.close()
            self.close_connection = True
            return
        self.server.log.append((f"{self.command} {path}", len(body)))
        if self.kind in ("hang", "slow"):
            self.server.closing.wait(None if self.kind == "hang" else 0.3)
        if isinstance(self.kind, int):
            self.refuse(self.kind, message=f"injected {self.kind}")
            return
        with self.server.lock:
            self.route(path, body)

    def route(self, path: str, body: bytes):
        hub = self.server
        path = re.sub(r"^/(api/)?datasets/", lambda of: "/api/models/" if of[1] else "/", path)  # one kind for both
        if found := re.fullmatch(r"/large/([0-9a-f]{64})", path):  # addressed by content, needs no token
            return self.large(found[1], body)
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        known = self.headers.get("Authorization") == f"Bearer {hub.token}"
        found = re.match(r"/(?:api/models/)?([\w.-]+/[\w.-]+?)(?=\.git/|/|$)", path)
        repo = hub.repos.get(found[1]) if found else None
        reads = self.command in ("GET", "HEAD") and repo and not repo["private"]
        if not known and not reads:
            if self.command in ("GET", "HEAD") and found:
                return self.refuse(401, "RepoNotFound", "Repository not found")  # as if it were not there
            return self.refuse(401, message="Invalid credentials in Authorization header")
        if path == "/api/whoami-v2":
            token = {"displayName": "test", "role": "write"}
            return self.answer({"type": "user", "name": hub.user, "orgs": [], "auth": {"accessToken": token}})
        if path in ("/api/repos/create", "/api/repos/delete"):
            return self.create_or_delete(path, json.loads(body))
        if repo is None:
            return self.refuse(404, "RepoNotFound", "Repository not found")
        if path.startswith("/api/models/"):
            operation, _, rest = path.removeprefix(f"/api/models/{found[1]}").lstrip("/").partition("/")
            return getattr(self, f"api_{(operation or 'revision').replace('-', '_')}")(found[1], repo, rest, body)
        if path.endswith(".git/info/lfs/objects/batch"):
            return self.batch(json.loads(body)["objects"])
        if path.endswith(".git/verify"):
            return self.answer({}, 200 if json.loads(body)["oid"] in hub.large else 404)
        return self.resolve(repo, *re.fullmatch(rf"/{found[1]}/(?:resolve|raw)/([^/]+)/(.+)", path).groups())

    def create_or_delete(self, path: str, wanted: dict):
        repo_id = f"{wanted.get('organization') or self.server.user}/{wanted['name']}"
        if repo_id.partition("/")[0] != self.server.user:
            return self.refuse(403, message="You don't have the rights to create a model under this namespace")
        if path.endswith("delete"):
            return self.answer({} if self.server.repos.pop(repo_id, None) else None)
        url = {"url": f"{self.server.url}/{repo_id}", "name": repo_id}
        if repo_id in self.server.repos:
            return self.answer({"error": "You already created this model repo"} | url, 409)
        start = hashlib.sha1(repo_id.encode()).hexdigest()
        repo = {"private": wanted.get("visibility") == "private" or wanted.get("private") is True}
        self.server.repos[repo_id] = repo | {"refs": {"main": start}, "commits": {start: {".gitattributes": b""}}}
        return self.answer(url)

    def large(self, digest: str, body: bytes):
        if self.command != "PUT":
            return self.blob(self.server.large[digest], {"ETag": f'"{digest}"'})
        if hashlib.sha256(body).hexdigest() != digest:
            return self.refuse(400, message="digest differs")
        self.server.large[digest] = body
        return self.answer(headers={"ETag": f'"{digest}"'})

    def batch(self, objects: list[dict]):
        for entry in objects:
            if entry["oid"] not in self.server.large:
                verify = re.sub(r"/info/lfs/.*", "/verify", self.path)
                entry["actions"] = {"upload": {"href": f"{self.server.url}/large/{entry['oid']}"},
                                    "verify": {"href": f"{self.server.url}{verify}"}}  # fmt: skip
        self.answer({"transfer": "basic", "objects": objects})

    def api_preupload(self, repo_id, repo, revision, body):
        now = repo["commits"][repo["refs"][revision]]
        modes = []
        for file in json.loads(body)["files"]:
            there = now.get(file["path"])
            oid = there if there is None or isinstance(there, str) else blob_id(there)
            mode = "lfs" if file["path"].endswith(LARGE) else "regular"
            modes.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.answer({"files": modes})

    def api_commit(self, repo_id, repo, revision, body):
        files = dict(repo["commits"][repo["refs"][revision]])
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.server.large:
                    return self.refuse(400, message=f"{value['path']} points to a file that was not uploaded")
                files[value["path"]] = value["oid"]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        commit = hashlib.sha1(f"{repo_id}{revision}{len(repo['commits'])}".encode()).hexdigest()
        repo["commits"][commit], repo["refs"][revision] = files, commit
        url = f"{self.server.url}/{repo_id}/commit/{commit}"
        return self.answer({"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})

    def api_branch(self, repo_id, repo, name, body):
        if name in repo["refs"]:
            return self.refuse(409, message="Reference already exists")
        repo["refs"][name] = repo["refs"]["main"]
        return self.answer({})

    def api_tag(self, repo_id, repo, revision, body):
        repo["refs"][json.loads(body)["tag"]] = repo["refs"].get(revision, revision)
        self.answer({})

    def api_refs(self, repo_id, repo, rest, body):
        branches = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit}
                    for name, commit in repo["refs"].items()]  # fmt: skip
        self.answer({"branches": branches, "tags": [], "converts": []})

    def files_of(self, repo, revision: str):
        commit = repo["refs"].get(revision or "main", revision)
        if commit in repo["commits"]:
            return commit, repo["commits"][commit]
        return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}"), None

    def api_revision(self, repo_id, repo, revision, body):
        commit, files = self.files_of(repo, revision)
        if files is not None:
            facts = {"id": repo_id, "modelId": repo_id, "sha": commit, "private": repo["private"], "gated": False,
                     "disabled": False, "downloads": 0, "likes": 0, "tags": []}  # fmt: skip
            self.answer(facts | {"siblings": [{"rfilename": path} for path in sorted(files)]})

    def api_tree(self, repo_id, repo, rest, body):
        revision, _, folder = rest.partition("/")
        _, files = self.files_of(repo, revision)
        if files is not None:
            inside = f"{folder}/" if folder else ""
            entries = [self.entry(path, data) for path, data in sorted(files.items())]
            folders = sorted({path.rpartition("/")[0] for path in files if "/" in path})
            entries += [{"type": "directory", "oid": blob_id(b""), "size": 0, "path": name} for name in folders]
            entries = [entry for entry in entries if entry["path"].startswith(inside)]
            if "recursive" not in parse_qs(urlsplit(self.path).query):
                entries = [entry for entry in entries if "/" not in entry["path"].removeprefix(inside)]
            self.answer(entries)

    def entry(self, path: str, data: bytes | str) -> dict:
        if isinstance(data, bytes):
            return {"type": "file", "oid": blob_id(data), "size": len(data), "path": path}
        size = len(self.server.large[data])
        lfs = {"oid": data, "size": size, "pointerSize": 134}
        return {"type": "file", "oid": blob_id(data.encode()), "size": size, "path": path, "lfs": lfs}

    def resolve(self, repo, revision: str, path: str):
        commit, files = self.files_of(repo, revision)
        if files is None:
            return
        if path not in files:
            self.refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
        elif isinstance(data := files[path], bytes):
            self.blob(data, {"X-Repo-Commit": commit, "ETag": f'"{blob_id(data)}"'})
        else:  # to another host, as the real Hub does: metadata are on the redirect, the token stays here
            place = f"http://localhost:{self.server.server_address[1]}/large/{data}"
            size = len(self.server.large[data])
            linked = {"Location": place, "X-Repo-Commit": commit, "X-Linked-Etag": f'"{data}"', "X-Linked-Size": size}
            self.answer(status=302, headers=linked | {"ETag": f'"{data}"'})

    def blob(self, data: bytes, headers: dict):
        status = 200
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            first, last = int(asked[1]), int(asked[2] or len(data) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            data, status = data[first : last + 1], 206
        self.answer(status=status, data=data, headers=headers | {"Accept-Ranges": "bytes"})


for method in ("GET", "HEAD", "POST", "PUT", "DELETE"):
    setattr(Handler, f"do_{method}", Handler.handle_any)
