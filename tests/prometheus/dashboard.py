#!/usr/bin/env python3
"""The dashboard without Grafana: its shape, its queries in a real Prometheus, and drawings of what they return.

`check`: the JSON holds together, and each metric in it is one that Saltway has (README.md, or the source).
`live [DIR]`: starts Prometheus over `exporter.py`, runs each query, and fails when one is refused or returns nothing; draws the panels.
"""

import html
import json
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
DASHBOARD = json.loads((ROOT / "configs/grafana-dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
LIVE_SECONDS = 150
STEP = 5
COLOURS = ["#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#76b7b2", "#edc948", "#9c755f"]


def queries():
    for panel in PANELS:
        for target in panel["targets"]:
            yield panel, target


def check():
    mistakes = []
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    if len(set(ids)) != len(ids):
        mistakes.append("two panels have the same id")
    taken = set()
    for panel in DASHBOARD["panels"]:
        box = panel["gridPos"]
        cells = {(x, y) for x in range(box["x"], box["x"] + box["w"]) for y in range(box["y"], box["y"] + box["h"])}
        if box["x"] + box["w"] > 24 or cells & taken:
            mistakes.append(f"panel {panel['title']!r} lies over another, or beyond the edge")
        taken |= cells
    files = [ROOT / "README.md", *(path for crate in ("bridge", "master-shim", "crates") for path in (ROOT / crate).rglob("*.rs"))]
    known = set(re.findall(r"(?:saltway|process)_[a-z_]+", "\n".join(path.read_text() for path in files)))
    used = {name: panel["title"] for panel, target in queries() for name in re.findall(r"(?:saltway|process)_[a-z_]+", target["expr"])}
    for line in (ROOT / "configs/alerts.yaml").read_text().splitlines():
        if not line.lstrip().startswith(("#", "summary", "description")):
            used.update((name, "alerts.yaml") for name in re.findall(r"\bsaltway_[a-z_]+", line))
    for name, where in used.items():
        if name not in known and re.sub(r"_(bucket|sum|count)$", "", name) not in known:
            mistakes.append(f"{where}: no daemon has the metric {name}")
    if mistakes:
        sys.exit("\n".join(f"[dashboard] {mistake}" for mistake in mistakes))
    print(f"[dashboard] {len(PANELS)} panels, {sum(1 for _ in queries())} queries hold together")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Prometheus:
    """A Prometheus over the made-up relay, for as long as the `with` lasts."""

    def __enter__(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="saltway-prometheus-"))
        exporter, port = free_port(), free_port()
        jobs = [{"job_name": f"saltway-{name}", "metrics_path": f"/{name}/metrics", "scrape_interval": f"{STEP}s",
                 "static_configs": [{"targets": [f"127.0.0.1:{exporter}"], "labels": {"instance": name, "job": "saltway"}}]} for name in ("mom", "mom2", "site1", "site2")]
        config = {"global": {"evaluation_interval": "5s"}, "rule_files": [str(ROOT / "configs/alerts.yaml")], "scrape_configs": jobs}
        (self.dir / "prometheus.yml").write_text(json.dumps(config))
        command = ["prometheus", f"--config.file={self.dir}/prometheus.yml", f"--storage.tsdb.path={self.dir}/data",
                   f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
        self.children = [subprocess.Popen([sys.executable, ROOT / "tests/prometheus/exporter.py", str(exporter)]), subprocess.Popen(command)]
        self.url, self.began = f"http://127.0.0.1:{port}/api/v1", time.time()
        return self

    def __exit__(self, *_):
        for child in self.children:
            child.terminate()
            child.wait()
        shutil.rmtree(self.dir)

    def range(self, expr):
        query = {"query": expr, "start": self.began, "end": time.time(), "step": STEP}
        with urllib.request.urlopen(f"{self.url}/query_range?{urllib.parse.urlencode(query)}", timeout=30) as reply:
            return json.load(reply)["data"]["result"]

    def alerts(self):
        with urllib.request.urlopen(f"{self.url}/alerts", timeout=30) as reply:
            return json.load(reply)["data"]["alerts"]


def filled(expr):
    """What Grafana puts in for its variables."""
    return expr.replace("$__rate_interval", f"{4 * STEP}s").replace("$site", ".*")


def live(directory=None):
    with Prometheus() as prometheus:
        seen = set()
        while time.time() < prometheus.began + LIVE_SECONDS:
            time.sleep(STEP)
            seen |= {alert["labels"]["alertname"] for alert in prometheus.alerts() if alert["state"] in ("pending", "firing")}
        drawn, empty = [], []
        for panel in PANELS:
            results = []
            for target in panel["targets"]:
                series = prometheus.range(filled(target["expr"]))
                if not series:
                    empty.append(f"{panel['title']}: {target['expr']}")
                results += [(legend(target, one["metric"]), [(float(at), float(value)) for at, value in one["values"]]) for one in series]
            drawn.append((panel, results))
    print(f"[dashboard] alerts seen: {', '.join(sorted(seen))}")
    if directory:
        draw(pathlib.Path(directory), drawn, prometheus.began)
    if empty:
        sys.exit("\n".join(f"[dashboard] no data: {one}" for one in empty))
    print(f"[dashboard] every query of {len(drawn)} panels returned data")


def legend(target, labels):
    return re.sub(r"\{\{(\w+)\}\}", lambda match: labels.get(match[1], ""), target["legendFormat"]) or "value"


def draw(directory, drawn, began):
    directory.mkdir(parents=True, exist_ok=True)
    boxes = []
    for panel, series in drawn:
        box = panel["gridPos"]
        place = f"left:{box['x'] * 58}px;top:{box['y'] * 36}px;width:{box['w'] * 58 - 8}px;height:{box['h'] * 36 - 8}px"
        body = number(panel, series) if panel["type"] == "stat" else chart(panel, series, began, box["w"] * 58 - 24, box["h"] * 36 - 70)
        boxes.append(f'<div style="{place}"><b>{html.escape(panel["title"])}</b>{body}</div>')
    rows = [f'<h2 style="top:{row["gridPos"]["y"] * 36}px">{html.escape(row["title"])}</h2>' for row in DASHBOARD["panels"] if row["type"] == "row"]
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in PANELS) * 36
    style = ("body{margin:8px;background:#f4f5f5;font:12px sans-serif;position:relative;height:%dpx}div{position:absolute;background:#fff;border:1px solid #ccd;"
             "padding:6px;box-sizing:border-box;overflow:hidden}h2{position:absolute;margin:8px 0;font-size:14px}p{font-size:28px;margin:18px 0}span{margin-right:8px}") % height
    page = directory / "dashboard.html"
    page.write_text(f"<!doctype html><meta charset=utf-8><style>{style}</style>{''.join(rows)}{''.join(boxes)}")
    chromium = shutil.which("chromium")
    if chromium:
        subprocess.run([chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size=1420,{height + 40}",
                        f"--screenshot={directory}/dashboard.png", page.as_uri()], check=True, capture_output=True)


def number(panel, series):
    value = series[0][1][-1][1] if series else float("nan")
    colour = "green"
    for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]:
        if step["value"] is None or value >= step["value"]:
            colour = step["color"]
    return f'<p style="color:{colour}">{value:.4g} {panel["fieldConfig"]["defaults"]["unit"].replace("none", "").replace("short", "")}</p>'


def chart(panel, series, began, width, height):
    top = max([value for _, values in series for _, value in values if value == value] + [1e-9])
    lines = []
    for at, (_, values) in enumerate(series):
        points = " ".join(f"{(t - began) / LIVE_SECONDS * width:.1f},{height - value / top * (height - 4):.1f}" for t, value in values if value == value)
        dots = "".join(f'<circle r=2 cx={p.split(",")[0]} cy={p.split(",")[1]} fill="{COLOURS[at % 8]}"/>' for p in points.split()) if panel["type"] != "state-timeline" else ""
        lines.append(f'<polyline points="{points}" fill="none" stroke="{COLOURS[at % 8]}"/>{dots}')
    names = "".join(f'<span style="color:{COLOURS[at % 8]}">{html.escape(name)}</span>' for at, (name, _) in enumerate(series))
    return f"<br><small>max {top:.3g} {panel['fieldConfig']['defaults'].get('unit', '')}</small><svg width={width} height={height}>{''.join(lines)}</svg><br>{names}"


if __name__ == "__main__":
    {"check": check, "live": live}[sys.argv[1]](*sys.argv[2:])
