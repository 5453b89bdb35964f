#!/usr/bin/env python3
"""A relay's metrics without a relay, for the dashboard's queries: two bridges of one MoM and two shims.

    tests/prometheus/exporter.py PORT

Serves /<daemon>/metrics for `mom`, `mom2`, `site1` and `site2`. The counters follow the clock from the start on; after 40 % of the
PERIOD site2 is cut off for a fifth of it, loses 4 publications at hop redis, and misses answers. Standard library only.
"""

import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BEGAN = time.time()
PERIOD = 120.0
BOUNDS = ["0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10", "+Inf"]


def cut(t):
    return 0.4 * PERIOD < t < 0.6 * PERIOD


def after_cut(t, amount):
    return amount if t >= 0.6 * PERIOD else 0


def histogram(name, labels, rate, t, typical):
    lines, count = [], rate * t
    for at, bound in enumerate(BOUNDS):
        share = min(1.0, max(0.0, (at - typical + 2) / 4))
        lines.append(f'{name}_bucket{{{labels}{"," if labels else ""}le="{bound}"}} {count * share if bound != "+Inf" else count}')
    return lines + [f"{name}_sum{{{labels}}} {count * 0.05}", f"{name}_count{{{labels}}} {count}"]


def process(program, memory):
    return [f'saltway_build_info{{program="{program}",version="0.1.0"}} 1', f"process_resident_memory_bytes {memory}",
            f"process_cpu_seconds_total {0.03 * (time.time() - BEGAN)}"]


def bridge(t, now):
    lines = process("saltway-bridge", 31e6 + 4e4 * t)
    for hop in ("mom", "redis"):
        lines.append(f'saltway_publications_total{{hop="{hop}"}} {4 * t}')
    for site, share in (("site1", 1.0), ("site2", 0.0 if cut(t) else 1.0)):
        down = site == "site2" and cut(t)
        behind = t - 0.4 * PERIOD if down else 0.2
        lines += [f'saltway_site_up{{site="{site}"}} {0 if down else 1}', f'saltway_site_lag_seconds{{site="{site}"}} {behind}',
                  f'saltway_site_lag_entries{{site="{site}"}} {int(behind * 4) if down else 0}']
        lost = after_cut(t, 4) if site == "site2" else 0
        lines.append(f'saltway_publications_lost_total{{hop="redis",site="{site}"}} {lost}')
        missing = after_cut(t, 12) if site == "site2" else 0
        lines += [f'saltway_deliveries_missing_total{{site="{site}",reason="unreachable"}} {missing}',
                  f'saltway_deliveries_missing_total{{site="{site}",reason="silent"}} 0']
        lines.append(f'saltway_last_hop_missed_total{{site="{site}"}} {after_cut(t, 30) if site == "site2" else 0}')
        for quantile, seconds in (("0.5", 0.008), ("0.99", 0.12 if site == "site2" else 0.03)):
            lines.append(f'saltway_last_hop_delay_seconds{{site="{site}",quantile="{quantile}"}} {seconds}')
        for step in ("expected", "accepted", "received", "returned"):
            late = min(0.2 * PERIOD, max(0.0, t - 0.4 * PERIOD)) if site == "site2" and step != "expected" else 0
            lines.append(f'saltway_deliveries_total{{site="{site}",step="{step}"}} {12 * (t - late)}')
    lines += [f'saltway_publications_lost_total{{hop="mom",site=""}} 0', f'saltway_publications_expired_total{{hop="redis"}} {after_cut(t, 2)}',
              f"saltway_publications_duplicate_total {4 * t}", "saltway_publications_reappended_total 0",
              f'saltway_heartbeat_timestamp_seconds{{hop="redis"}} {now - 0.3}', f'saltway_requests_refused_total{{reason="clear_command"}} {after_cut(t, 1)}',
              f'saltway_ledger_jobs{{state="open"}} {3 + int(t) % 4}', f'saltway_ledger_jobs{{state="complete"}} {int(4 * t)}',
              f'saltway_redis_errors_total{{reason="timeout"}} {after_cut(t, 3)}', f'saltway_redis_reconnects_total{{purpose="append"}} {after_cut(t, 1)}']
    lines += histogram("saltway_request_latency_seconds", "", 2, t, 3)
    return lines + histogram("saltway_publication_latency_seconds", "", 4, t, 1)


def shim(site, t, now):
    away = site == "site2" and cut(t)
    lines = process("saltway-master-shim", 24e6 + 2e4 * t)
    seen = t - (min(0.2 * PERIOD, max(0.0, t - 0.4 * PERIOD)) if site == "site2" else 0)
    for hop in ("site", "lower_master"):
        lines += [f'saltway_publications_total{{hop="{hop}"}} {4 * seen}']
        lines += histogram("saltway_publication_latency_seconds", f'hop="{hop}"', 4, seen, 4)
    lost = after_cut(t, 4) if site == "site2" else 0
    lines += [f'saltway_publications_lost_total{{hop="redis",site="{site}"}} {lost}', f"saltway_publications_expired_total {lost}",
              f"saltway_publications_recovered_total {after_cut(t, 90) if site == 'site2' else 0}", "saltway_lower_master_restarts_total 0",
              f'saltway_redeliveries_total{{outcome="sent"}} {after_cut(t, 30) if site == "site2" else 0}', 'saltway_redeliveries_total{outcome="held_back"} 0',
              f'saltway_lease_active{{site="{site}"}} 1', f'saltway_returns_total{{hop="lower_master"}} {12 * seen}',
              f'saltway_returns_total{{hop="mom"}} {12 * seen - (200 if away else 0)}', f'saltway_sign_ins_total{{result="accepted"}} {1 + after_cut(t, 1)}',
              f'saltway_heartbeat_timestamp_seconds{{hop="bridge"}} {BEGAN + 0.4 * PERIOD if away else now - 0.4}']
    for kind in ("return", "ack", "event"):
        lines += [f'saltway_spool_entries{{class="{kind}"}} {(t - 0.4 * PERIOD) * 9 if away else 0}', f'saltway_spool_bytes{{class="{kind}"}} 0',
                  f'saltway_shed_total{{class="{kind}",reason="bytes"}} {after_cut(t, 5) if site == "site2" and kind == "event" else 0}']
    return lines + histogram("saltway_request_latency_seconds", "", 2, seen, 4)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):  # noqa: N802, the name is the library's
        now = time.time()
        daemon, t = self.path.strip("/").split("/")[0], now - BEGAN
        lines = bridge(t, now) if daemon.startswith("mom") else shim(daemon, t, now)
        body = ("\n".join(lines) + "\n").encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
