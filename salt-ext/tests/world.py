"""A world without Salt and without a bridge: sites, minions that do as they are told, and the ledger's answers about them."""

import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "src"))

from saltext.saltway import bridge, job_cache, roll, rollout  # noqa: E402


class Killed(BaseException):
    """The process died here."""


class World:
    """Stands for the bridge (`get`) and, by `patch`, for the master that publishes."""

    def __init__(self, case, sites, down=(), ask=()):
        self.sites, self.down, self.ask = sites, set(down), list(ask)
        self.behaviour = {}  # verdict by minion; else `returned`
        self.published = []  # (jid, tgt, fun, user)
        self.events = []
        self.said = []
        self.asked = []
        self.before_publish = lambda world: None
        self.after_publish = lambda world: None
        self.in_cache = None
        self.away = 0
        directory = tempfile.TemporaryDirectory(prefix="saltway-roll-")
        case.addCleanup(directory.cleanup)
        self.opts = {"cachedir": directory.name, "sock_dir": directory.name, "master_job_cache": "local_cache"}
        self._patch(case, rollout, "publish", self._publish)
        self._patch(case, rollout, "POLL", 0.01)
        self._patch(case, rollout, "PATIENCE", 2)
        self._patch(case, rollout.Driver, "_fire", lambda driver, what, more: self.events.append((what, more)))
        self._patch(case, rollout.Driver, "tell", lambda driver, line: self.said.append(line))
        self._patch(case, job_cache, "has", lambda _opts, jid: self.in_cache or jid in [one[0] for one in self.published])

    @staticmethod
    def _patch(case, owner, name, value):
        before = getattr(owner, name)
        setattr(owner, name, value)
        case.addCleanup(setattr, owner, name, before)

    def _publish(self, _opts, state, tgt, _tgt_type, jid="", fun=None):
        self.before_publish(self)
        self.published.append((jid or "20260101000000000000", tgt, fun or state["fun"], state["user"]))
        self.after_publish(self)
        return self.published[-1][0]

    def get(self, path, **query):
        self.asked.append((path, query))
        if self.away:
            self.away -= 1
            raise bridge.CannotAsk("no bridge answers", "start it")
        if path == "expect":
            wanted = query["tgt"].split(",") if query["tgt_type"] == "list" else None
            sites = [
                {"id": site, "state": "down" if site in self.down else "up", "minions": [one for one in ids if wanted is None or one in wanted]}
                for site, ids in self.sites.items()
            ]
            return {"sites": sites, "ask": self.ask}
        jid = path[len("jobs/") :]
        known = [one for one in self.published if one[0] == jid]
        if not known:
            raise bridge.CannotAsk("no job " + jid, "saltway jobs", 404)
        tgt = known[-1][1]
        of = {one: site for site, ids in self.sites.items() for one in ids}
        chosen = tgt if isinstance(tgt, list) else list(of)
        minions = [{"id": one, "site": of[one], "step": "x", "verdict": self.behaviour.get(one, "returned")} for one in chosen]
        back = sum(minion["verdict"] in ("returned", "failed") for minion in minions)
        is_open = any(minion["verdict"] in ("waiting", "running") for minion in minions)
        return {
            "state": "open" if is_open else "complete" if back == len(minions) else "incomplete",
            "returned": back,
            "failed": sum(minion["verdict"] == "failed" for minion in minions),
            "expected": len(minions),
            "minions": minions[: query.get("limit", 1000)],
            "sites": [{"id": site, "state": "down" if site in self.down else "up", "ask": False} for site in self.sites],
        }

    def rollout(self, tgt="*", fun="test.ping", *args, **named):
        return roll.begin(self.opts, self, "sudo_anna", tgt, fun, args, named)
