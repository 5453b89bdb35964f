"""Redelivery by hand: to whom a job goes again, what is sent, and who hears of it. `tests/run` starts it."""

import contextlib
import os
import tempfile
import time
import unittest
from unittest import mock

import world  # noqa: F401  (makes the extension importable)
import zmq

import salt.payload
from saltext.saltway import bridge, redelivery

JID = "20261121173800110002"
LOAD = {
    "cmd": "publish",
    "fun": "cmd.run",
    "arg": ["true", {"__kwarg__": True, "shell": "/bin/sh"}],
    "tgt": "*",
    "tgt_type": "glob",
    "jid": JID,
    "ret": "",
    "user": "sudo_anna",
    "to": 5,
    "kwargs": {"metadata": {"ticket": 1}, "show_jid": False, "delimiter": ":"},
}


def minion(one, step="accepted", verdict="silent", receipts=True, received_ms=None):
    return {"id": one, "site": "s", "step": step, "verdict": verdict, "receipts": receipts, "received_ms": received_ms}


MINIONS = [
    minion("back", "returned", "returned"),
    minion("failed", "failed", "failed"),
    minion("runs", "running", "running"),
    minion("has", "received", "silent"),
    minion("got", "accepted", "silent", received_ms=12),
    minion("gone", "unmatched", "unmatched"),
    minion("missed", "accepted", "not_received"),
    minion("cut", "expected", "unreachable", receipts=False),
    minion("mute", "accepted", "silent", receipts=False),
    minion("unheard", "accepted", "unknown"),
]


class Ledger:
    """The bridge's answer about one job."""

    def __init__(self, minions=MINIONS, at=None, ttl="5m"):
        self.minions, self.at, self.ttl = minions, at or time.time(), ttl

    def get(self, path, **_query):
        if self.minions is None:
            raise bridge.CannotAsk("no job", "look", 404)
        assert path == "jobs/" + JID
        return {"jid": JID, "at": self.at, "minions": self.minions}

    def job_ttl(self):
        return self.ttl


class Case(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory(prefix="saltway-again-")
        self.addCleanup(directory.cleanup)
        self.opts = {"sock_dir": directory.name, "order_masters": True, "master_job_cache": "local_cache"}
        self.fired, self.sockets = [], []
        event = mock.MagicMock()
        event.__enter__.return_value.fire_event = lambda data, tag: self.fired.append((tag, data))
        stack = contextlib.ExitStack()
        self.addCleanup(stack.close)
        for what in (
            mock.patch("saltext.saltway.job_cache.load", lambda _opts, jid: dict(LOAD) if jid == JID else {}),
            mock.patch("salt.utils.event.get_master_event", lambda *_args, **_more: event),
        ):
            stack.enter_context(what)

    def publisher(self):
        """A publisher process that takes what is sent."""
        context = zmq.Context()
        socket = context.socket(zmq.PULL)
        socket.bind("ipc://" + os.path.join(self.opts["sock_dir"], "publish_pull.ipc"))
        socket.setsockopt(zmq.RCVTIMEO, 5000)
        self.sockets.append(socket)
        self.addCleanup(context.destroy, 0)
        return socket

    def redeliver(self, ledger, minions=None, force=False, jid=JID):
        return redelivery.redeliver(self.opts, ledger, jid, minions, force, "root")


class Whom(Case):
    def test_those_who_surely_did_not_get_it_and_nobody_else(self):
        socket = self.publisher()
        answer = self.redeliver(Ledger())
        self.assertEqual(answer["sent"], ["cut", "missed"])
        self.assertEqual(set(answer["refused"]), {"runs", "has", "got", "gone", "mute", "unheard"})
        self.assertIn("force=True", answer["refused"]["mute"])
        self.assertEqual(salt.payload.loads(socket.recv())["tgt"], ["cut", "missed"])

    def test_force_takes_those_of_whom_nobody_knows_but_never_one_that_has_it(self):
        self.publisher()
        answer = self.redeliver(Ledger(), force=True)
        self.assertEqual(answer["sent"], ["cut", "missed", "mute", "unheard"])
        self.assertEqual(set(answer["refused"]), {"runs", "has", "got", "gone"})

    def test_who_is_named_and_not_sent_it_is_told_why(self):
        self.publisher()
        answer = self.redeliver(Ledger(), minions=["back", "failed", "stranger", "missed"], force=True)
        self.assertEqual(answer["sent"], ["missed"])
        self.assertEqual(answer["refused"], {"back": "has returned", "failed": "has returned", "stranger": "the job did not mean it"})

    def test_an_expired_job_is_sent_only_by_force(self):
        self.publisher()
        answer = self.redeliver(Ledger(at=time.time() - 400))
        self.assertEqual(answer["sent"], [])
        self.assertIn("expired 100 s ago", answer["error"])
        self.assertEqual(self.fired, [])
        self.assertEqual(self.redeliver(Ledger(at=time.time() - 400, ttl="10m"))["sent"], ["cut", "missed"])
        self.assertEqual(self.redeliver(Ledger(at=time.time() - 400), force=True)["sent"], ["cut", "missed", "mute", "unheard"])

    def test_a_job_s_own_time_to_live_counts_before_the_relay_s(self):
        old = {"at": time.time() - 100}
        for metadata, expired in (({"saltway_ttl": 30}, True), ({"saltway_ttl": "2m"}, False), ({}, False), (None, False)):
            load = dict(LOAD, kwargs={"metadata": metadata})
            self.assertEqual(redelivery.expired_for(old, load, "5m") is not None, expired, metadata)

    def test_a_job_that_the_ledger_does_not_know_needs_names_and_force(self):
        socket = self.publisher()
        with self.assertRaises(bridge.CannotAsk):
            self.redeliver(Ledger(minions=None))
        self.assertEqual(self.redeliver(Ledger(minions=None), minions=["a"])["sent"], [])
        self.assertEqual(self.redeliver(Ledger(minions=None), minions=["a"], force=True)["sent"], ["a"])
        self.assertEqual(salt.payload.loads(socket.recv())["tgt"], ["a"])

    def test_a_job_that_the_master_does_not_know_is_told(self):
        for jid in ("20250101000000000000", "x", "../../../etc"):
            with self.assertRaises(bridge.CannotAsk, msg=jid):
                self.redeliver(Ledger(), jid=jid)


class What(Case):
    def test_it_is_the_job_as_it_was_for_a_list_of_minions(self):
        socket = self.publisher()
        self.redeliver(Ledger(), minions=["missed"])
        self.assertEqual(
            salt.payload.loads(socket.recv()),
            {
                "fun": "cmd.run",
                "arg": LOAD["arg"],
                "tgt": ["missed"],
                "tgt_type": "list",
                "jid": JID,
                "ret": "",
                "user": "sudo_anna",
                "to": 5,
                "metadata": {"ticket": 1},
                "auth_list": [],
                "saltway_redelivery": True,
            },
        )

    def test_the_bridge_hears_of_it_by_an_event(self):
        self.publisher()
        self.redeliver(Ledger())
        self.assertEqual(
            self.fired, [("saltway/job/%s/redeliver" % JID, {"v": 1, "jid": JID, "minions": ["cut", "missed"], "user": "root"})]
        )

    def test_a_large_job_goes_in_parts(self):
        socket = self.publisher()
        answer = self.redeliver(Ledger([minion("m%05d" % at) for at in range(12000)]))
        self.assertEqual(len(answer["sent"]), 12000)
        sizes = [len(salt.payload.loads(socket.recv())["tgt"]) for _ in range(3)]
        self.assertEqual(sizes, [5000, 5000, 2000])
        self.assertEqual([len(data["minions"]) for _, data in self.fired], sizes)

    def test_a_load_that_lacks_something_is_never_sent(self):
        socket = self.publisher()
        for key in ("fun", "arg", "ret", "user"):
            with mock.patch("saltext.saltway.job_cache.load", lambda _opts, _jid: {k: v for k, v in LOAD.items() if k != key}):
                with self.assertRaises(bridge.CannotAsk, msg=key):
                    self.redeliver(Ledger())
        with self.assertRaises(zmq.Again):
            socket.recv(zmq.NOBLOCK)

    def test_a_publisher_that_is_away_is_told_and_nothing_comes_later(self):
        with mock.patch.object(redelivery, "SEND_TIMEOUT_MS", 100):
            with self.assertRaises(bridge.CannotAsk) as raised:
                self.redeliver(Ledger())
        self.assertIn("salt-master", raised.exception.hint)
        self.assertEqual(self.fired, [])
        with self.assertRaises(zmq.Again):
            socket = self.publisher()
            socket.setsockopt(zmq.RCVTIMEO, 300)
            socket.recv()


if __name__ == "__main__":
    unittest.main()
