"""`hf-mi-ssl view RUN_DIR`: a run as one page without any other resource, on this machine alone or in a file.

    hf-mi-ssl view runs/my_photos                      # http://127.0.0.1:8732, which follows a run in progress
    hf-mi-ssl view runs/my_photos --output page.html   # one file; it holds held-out images

Curves and alarms from metrics.jsonl, the table of results.json, and of some held-out images the map of their
representations and their nearest neighbours.
"""

import argparse
import json
import logging
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from ..errors import UserError, log_to_terminal

logger = logging.getLogger(__name__)
_PAGE = Path(__file__).with_name("page.html")
_LOCAL = ("127.0.0.1", "localhost")


def main(argv: list[str]) -> int:
    log_to_terminal()
    parser = argparse.ArgumentParser(
        prog="hf-mi-ssl view", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run_dir", type=Path, help="output directory of a pre-training run, finished or not")
    parser.add_argument("--port", type=int, default=8732, help="on 127.0.0.1; 0: any that is free (default: 8732)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the page there, and serve nothing")
    parser.add_argument("--num_images", type=int, default=300, help="held-out images to show; 0: none (default: 300)")
    parser.add_argument("--trust_run", action="store_true", help="the run's own word for where its images are: fetch "
                        "Hub ids and addresses, keep pixels where --data_cache_dir said")  # fmt: skip
    args = parser.parse_args(argv)
    try:
        if not (args.run_dir / "metrics.jsonl").is_file():
            raise UserError(f"{args.run_dir} holds no metrics.jsonl: give the --output_dir of a pre-training run")
        if args.output:
            args.output.write_text(page(args.run_dir, args.num_images, False, args.trust_run), encoding="utf-8")
            print(f"written to {args.output}")
        else:
            serve(args.run_dir, args.num_images, args.port, args.trust_run)
    except UserError as error:
        print(f"hf-mi-ssl view: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"hf-mi-ssl view: {error.strerror}: give another --port or --output", file=sys.stderr)
        return 2
    return 0


def page(run_dir: Path, num_images: int, live: bool = False, trusted: bool = False) -> str:
    """The page as HTML. Of a run that has exported its encoder it shows `num_images` held-out images, fetched if they
    are elsewhere and the run is `trusted`.

    Raises:
        UserError: for files that no run has written.
    """
    from .look import map_of  # imports torch
    from .run_page import read_run

    run, found, missing = read_run(run_dir), None, ""
    if run["finished"] and num_images > 0:
        try:
            found = map_of(run_dir, num_images, trusted)
        except (UserError, OSError) as error:  # the images have moved, say: the rest of the run is here
            missing = f"No images to show: {error}"
            logger.warning(missing)
    data = json.dumps({"run": run, "map": found, "missing": missing, "live": live}, ensure_ascii=False)
    data = data.replace("<", "\\u003c").replace("\u2028", "\\u2028")  # no name can end the script element
    return _PAGE.read_text(encoding="utf-8").replace("__DATA__", data, 1)


def serve(run_dir: Path, num_images: int, port: int, trusted: bool = False) -> None:
    """Serve the page on 127.0.0.1 until Ctrl-C."""
    with server(run_dir, num_images, port, trusted) as http:
        print(f"http://127.0.0.1:{http.server_port} shows {run_dir}; Ctrl-C ends it", flush=True)
        try:
            http.serve_forever()
        except KeyboardInterrupt:
            print()


def server(run_dir: Path, num_images: int, port: int, trusted: bool = False) -> HTTPServer:
    """The server of the page, which answers this machine under its own name only: another site that a browser shows
    has no way to the images, not even by a name that it makes point here."""
    from .run_page import read_run

    pages: dict[float, str] = {}  # the one of the latest export: representations are computed once

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.headers.get("Host", "").rsplit(":", 1)[0] not in _LOCAL:
                return self.send_error(403)
            if self.path not in ("/", "/run.json"):
                return self.send_error(404)
            try:
                return self._answer()
            except UserError as error:
                return self.send_error(500, explain=str(error))

        def _answer(self):
            if self.path == "/run.json":
                return self._send(json.dumps(read_run(run_dir)), "application/json")
            results = run_dir / "results.json"
            written = results.stat().st_mtime if results.exists() else None
            if written is None:
                return self._send(page(run_dir, 0, live=True), "text/html")
            if written not in pages:
                pages.clear()
                pages[written] = page(run_dir, num_images, True, trusted)
            return self._send(pages[written], "text/html")

        def _send(self, text: str, kind: str) -> None:
            content = text.encode()
            self.send_response(200)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_) -> None:
            """A request is no news."""

    return HTTPServer(("127.0.0.1", port), Handler)
