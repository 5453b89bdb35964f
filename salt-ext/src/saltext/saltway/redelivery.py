"""
Sends a job again, under its own jid, to minions that did not get it.

- It goes to the publisher process of this master, past its workers: the job cache keeps the job's target and minions as they
  were, and no `salt/job/<jid>/new` is fired. `saltway/job/<jid>/redeliver` tells the bridge.
- Nobody is sent it who has returned or acknowledged it. Where nobody knows whether a minion ran it, and where the job has
  expired, `force` is wanted.
"""

import calendar
import os
import re
import time

import salt.payload
import salt.utils.event
import zmq

from saltext.saltway import bridge as bridges
from saltext.saltway import job_cache

# One publication and one event name at most so many: an event above 1 MiB is cut by Salt.
CHUNK = 5000
SEND_TIMEOUT_MS = 3000
TTL = 300
NEEDED = ("fun", "arg", "tgt", "jid", "ret", "tgt_type", "user")
# What a master copies from the publisher's own options into a publication.
OPTIONS = ("metadata", "ret_config", "ret_kwargs", "module_executors", "executor_opts", "start_event", "id", "master_id")


def redeliver(opts, ledger, jid, minions, force, user):
    """Sends `jid` again to `minions`, or to everybody missing; who was sent it, who was not and why."""
    if not re.fullmatch(r"\d{8,}[0-9_]{0,32}", jid):
        raise bridges.CannotAsk("{} is no jid".format(jid), "a jid has 20 digits; salt-run saltway.jobs lists them")
    load = job_cache.load(opts, jid)
    if not load:
        raise bridges.CannotAsk(
            "the job cache of this master does not know job {}".format(jid), "it keeps jobs for keep_jobs_seconds; run the job anew"
        )
    job = ask(ledger, jid, minions)
    send, doubtful, refused = choose(job and job.get("minions") or [], minions, job is not None)
    answer = {"jid": jid, "fun": load.get("fun"), "sent": [], "refused": refused}
    old = expired_for(job, load, ledger.job_ttl())
    if not force and old is not None and (send or doubtful):
        return dict(answer, error="job {} expired {:.0f} s ago".format(jid, old), hint="if it is still wanted: force=True")
    if not force and doubtful:
        refused.update({one: "gives no receipts: nobody knows whether it ran the job; force=True sends it" for one in doubtful})
        doubtful = []
    chosen = sorted(send + doubtful)
    for begin in range(0, len(chosen), CHUNK):
        part = chosen[begin : begin + CHUNK]
        publish(opts, publication(opts, load, jid, part))
        with salt.utils.event.get_master_event(opts, opts["sock_dir"], listen=False) as event:
            event.fire_event({"v": 1, "jid": jid, "minions": part, "user": user}, "saltway/job/{}/redeliver".format(jid))
        answer["sent"].extend(part)
    return answer


def ask(ledger, jid, minions):
    """The job as the ledger has it; None if it does not know it and the minions are named."""
    try:
        return ledger.get("jobs/" + bridges.escaped(jid), limit=1000000)
    except bridges.CannotAsk as err:
        if err.status != 404 or minions is None:
            raise
        return None


def choose(known, wanted, is_known=True):
    """Who is sent it, of whom nobody knows, and who is not, with the reason: `(send, doubtful, refused)`."""
    if not is_known:
        return [], sorted(set(wanted)), {}
    send, doubtful, refused = [], [], {}
    by_id = {minion.get("id"): minion for minion in known}
    for one in sorted(set(wanted)) if wanted is not None else sorted(by_id):
        reason = why_not(by_id.get(one))
        if reason == "":
            (send if is_sure(by_id[one]) else doubtful).append(one)
        elif wanted is not None or reason not in ("has returned",):
            refused[one] = reason
    return send, doubtful, refused


def why_not(minion):
    """Why the job is not sent to this minion in any case; empty if it may be."""
    if minion is None:
        return "the job did not mean it"
    verdict, step = minion.get("verdict"), minion.get("step")
    if verdict in ("returned", "failed") or step in ("returned", "failed"):
        return "has returned"
    if verdict == "unmatched":
        return "its lower master does not have it any more"
    if step in ("received", "running") or verdict == "running" or minion.get("received_ms") is not None:
        return "has got the job, and has not returned yet"
    return ""


def is_sure(minion):
    """Whether it is known that the minion did not get the job: its site did not publish it, or the minion gives receipts."""
    return minion.get("verdict") != "unknown" and (minion.get("step") == "expected" or minion.get("receipts") is True)


def expired_for(job, load, job_ttl):
    """How many seconds ago the job expired; None if it has not."""
    metadata = (load.get("kwargs") or {}).get("metadata")
    own = metadata.get("saltway_ttl") if isinstance(metadata, dict) else None
    ttl = _seconds(own) or _seconds(job_ttl) or TTL
    age = time.time() - (job and job.get("at") or _made(load.get("jid")))
    return age - ttl if age > ttl else None


def _made(jid):
    """When a jid was made: it is the time in UTC."""
    try:
        return calendar.timegm(time.strptime(str(jid)[:14], "%Y%m%d%H%M%S"))
    except ValueError:
        return 0


def publication(opts, load, jid, minions):
    """The load as the master published it, for a list of minions."""
    extra = load.get("kwargs") if isinstance(load.get("kwargs"), dict) else {}
    made = {"fun": load.get("fun"), "arg": load.get("arg"), "tgt": minions, "jid": jid, "ret": load.get("ret"), "tgt_type": "list"}
    made["user"] = load.get("user")
    missing = [key for key in NEEDED if made[key] is None]
    if missing:
        raise bridges.CannotAsk("the job cache has job {} without {}".format(jid, ", ".join(missing)), "run the job anew")
    if "master_id" in opts:
        made["master_id"] = opts["master_id"]
    made.update({key: extra[key] for key in OPTIONS if extra.get(key) is not None})
    if load.get("to") is not None:
        made["to"] = load["to"]
    # By this a shim tells a redelivery from a repeated frame of a job with a list of minions.
    made["saltway_redelivery"] = True
    if opts.get("order_masters"):
        # Who may run it where was decided when it was published first.
        made["auth_list"] = []
    return made


def publish(opts, load):
    """Hands the publication to this master's publisher process."""
    if opts.get("transport", "zeromq") != "zeromq":
        raise bridges.CannotAsk("transport {} of this master is not supported".format(opts["transport"]), "Saltway needs zeromq")
    if opts.get("ipc_mode") == "tcp":
        address = "tcp://127.0.0.1:{}".format(opts.get("tcp_master_publish_pull", 4514))
    else:
        address = "ipc://" + os.path.join(opts["sock_dir"], "publish_pull.ipc")
    context = zmq.Context()
    try:
        socket = context.socket(zmq.PUSH)
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.setsockopt(zmq.SNDTIMEO, SEND_TIMEOUT_MS)
        socket.setsockopt(zmq.LINGER, SEND_TIMEOUT_MS)
        socket.connect(address)
        socket.send(salt.payload.dumps(load))
        socket.close()
    except zmq.ZMQError as err:
        context.destroy(linger=0)
        raise bridges.CannotAsk(
            "the publisher of this master does not take it at {}: {}".format(address, err), "does salt-master run, and does this user own it?"
        ) from None
    context.term()


def _seconds(text):
    """`300`, `"10m"` and the like in seconds."""
    matched = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?\s*", str(text)) if text is not None else None
    if not matched:
        return None
    return float(matched.group(1)) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}[matched.group(2) or "s"]
