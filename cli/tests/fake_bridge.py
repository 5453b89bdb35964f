#!/usr/bin/env python3
"""A bridge's HTTP API out of files, for tests and for looking at the status page without a relay.

    cli/tests/fake_bridge.py [--port 9464] [--token TEXT] [--live]

Prints its address, then serves `cli/tests/data/*.json` and the status page until it is ended. With --live the times are of now and
an open job goes on: each request answers for one more minion. Standard library only.
"""

import argparse
import fnmatch
import json
import pathlib
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

HERE = pathlib.Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "bridge" / "src" / "page" / "index.html"
NOW = 1795282000.0  # of the files
JOBS = {"20261121174030110001": "job-open", "20261121173800110002": "job", "20261121172000110004": "job-complete"}
MISSING = {"20261121173800110002": "missing", "20261121172000110004": "missing-none"}
TIMES = ("now", "since", "heard", "at")
METRICS = 'saltway_site_up{site="fra1"} 1\nsaltway_site_up{site="sgp1"} 0\nsaltway_publications_lost_total{hop="redis",site="sgp1"} 2\n'


def data(name):
    return json.loads((HERE / "data" / f"{name}.json").read_text())


def shifted(value, by):
    """The times of the files as if they had been written now."""
    if isinstance(value, dict):
        return {k: v + by if k in TIMES and isinstance(v, (int, float)) else shifted(v, by) for k, v in value.items()}
    if isinstance(value, list):
        return [shifted(item, by) for item in value]
    return value


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):  # noqa: N802, the name is the library's
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        health = url.path in ("/healthz", "/readyz")
        self.server.asked.append(self.path)
        if self.server.down and not health:
            return self.close_connection_now()
        if self.server.token and not health and self.headers.get("Authorization") != f"Bearer {self.server.token}":
            return self.answer(401, data("unauthorized"))
        if url.path == "/":
            return self.send(200, "text/html; charset=utf-8", PAGE.read_bytes())
        if url.path == "/metrics":
            return self.send(200, "text/plain; version=0.0.4", METRICS.encode())
        if health:
            return self.send(200, "text/plain", b"started: ok\nevent bus: ok\n")
        found = self.find(url.path.removeprefix("/api/v1/").split("/"), query)
        if found is None:
            return self.answer(404, data("not-found"))
        return self.answer(200, shifted(found, time.time() - NOW) if self.server.live else found)

    def find(self, path, query):
        match path:
            case ["status" | "sites"]:
                return data(path[0])
            case ["roster"]:
                answer = data("roster")
                answer["sites"] = [s for s in answer["sites"] if query.get("site") in (None, s["id"])]
                return answer
            case ["expect"]:
                states = {site["id"]: site["state"] for site in data("sites")["sites"]}
                ids = {site["id"]: [one["id"] for one in site["minions"] if fnmatch.fnmatch(one["id"], query["tgt"])] for site in data("roster")["sites"]}
                return {"sites": [{"id": site, "state": states[site], "minions": minions} for site, minions in ids.items()], "ask": []}
            case ["jobs"]:
                jobs = [j for j in data("jobs")["jobs"] if query.get("state") in (None, j["state"]) and j["jid"] < query.get("before", "9")]
                return {"jobs": jobs[: int(query.get("limit", 50))]}
            case ["jobs", jid]:
                summary = [j for j in data("jobs")["jobs"] if j["jid"] == jid]
                job = data(JOBS[jid]) if jid in JOBS else summary and dict(summary[0], minions=[], truncated=False)
                if job and "verdict" in query:
                    job["minions"] = [m for m in job["minions"] if m["verdict"] == query["verdict"]]
                return job or None
            case ["jobs", jid, "missing"] if jid in MISSING:
                return data(MISSING[jid])
        return None

    def answer(self, status, value):
        self.send(status, "application/json", json.dumps(value).encode())

    def send(self, status, kind, body):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def close_connection_now(self):
        self.close_connection = True

    def log_message(self, *_):
        pass


class FakeBridge(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port=0, token=None, live=False):
        super().__init__(("127.0.0.1", port), Handler)
        self.token, self.live, self.asked, self.down = token, live, [], False
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--token")
    parser.add_argument("--live", action="store_true")
    server = FakeBridge(**vars(parser.parse_args()))
    print(server.url, flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
