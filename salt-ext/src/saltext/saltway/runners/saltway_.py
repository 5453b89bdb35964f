"""
How far each job got below a Saltway relay, and who is missing
==============================================================

Asks the bridge on the top master's host for its ledger. Plain data comes back, for people, orchestration and salt-api.

.. code-block:: bash

    salt-run saltway.jobs
    salt-run saltway.missing 20261121173800110002

``salt-run`` ends with 1 when the job asked for misses somebody, with 2 when the bridge could not be asked (the answer then
has ``error`` and ``hint``).

Where the bridge is
-------------------

Nothing needs to be configured on the bridge's own host: address, certificate and token are read from ``http`` in
``/etc/salt/saltway.yaml``. Otherwise, in the master's configuration:

.. code-block:: yaml

    saltway:
      url: https://mom.example.com:9464
      token_file: /etc/salt/saltway.token   # if the bridge wants one
      ca_file: /etc/salt/saltway-ca.pem     # https with an authority of your own
      config: /etc/salt/saltway.yaml        # another file of the bridge, instead of url

It needs nothing but Salt and the standard library. Instead of installing it one can name this directory, wherever its tree was
copied to, in ``runner_dirs``.
"""

import os
import sys

# Not installed: this file's tree is then wherever somebody copied it to.
_TREE = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", ".."))
try:
    from saltext.saltway import bridge
except ImportError:
    sys.path.append(_TREE)
    from saltext.saltway import bridge
from saltext.saltway import redelivery, roll

__virtualname__ = "saltway"

MISSING = 1
CANNOT_ASK = 2


def __virtual__():
    return __virtualname__


def job(jid, verdict=None, limit=1000):
    """
    How far a job got: counts, counts per site, and each minion with its step and verdict, those first that have not returned.

    jid
        The job's id.
    verdict
        Only minions with this verdict: ``returned``, ``failed``, ``running``, ``silent``, ``not_received``, ``expired``,
        ``unreachable``, ``unmatched``.
    limit
        At most these many minions; ``truncated`` says whether there are more.

    .. code-block:: bash

        salt-run saltway.job 20261121173800110002
        salt-run saltway.job 20261121173800110002 verdict=unreachable
    """

    def ask():
        answer = _bridge().get("jobs/" + bridge.escaped(jid), verdict=verdict, limit=limit)
        return _told(answer, answer.get("missing", 0) > 0)

    return _answered(ask)


def missing(jid):
    """
    The minions that a job misses, each with its site and verdict, and the sites that cannot be asked.

    .. code-block:: bash

        salt-run saltway.missing 20261121173800110002
    """

    def ask():
        answer = _bridge().get("jobs/" + bridge.escaped(jid) + "/missing")
        return _told(answer, bool(answer.get("missing") or answer.get("sites_unreachable")))

    return _answered(ask)


def jobs(limit=20, state=None, before=None):
    """
    The newest jobs, by their jid: function, target, user, state, and counts in all and per site.

    limit
        How many, the newest first.
    state
        Only jobs that are ``open``, ``complete``, ``incomplete`` or ``expired``.
    before
        Only jobs older than this jid.

    .. code-block:: bash

        salt-run saltway.jobs
        salt-run saltway.jobs limit=5 state=incomplete
    """

    def ask():
        answer = _bridge().get("jobs", limit=limit, state=state, before=before)
        return {one.pop("jid"): _by_id(one, "sites") for one in answer.get("jobs", [])}

    return _answered(ask)


def sites():
    """
    The sites, by their id: up or down and since when, minions, lag, spool, losses.

    .. code-block:: bash

        salt-run saltway.sites
    """
    return _answered(lambda: {one.pop("id"): one for one in _bridge().get("sites").get("sites", [])})


def roster(site=None):
    """
    The minions of each site, as its master accepts them, with ``up``, ``down`` or ``unknown``.

    site
        Only this site.

    .. code-block:: bash

        salt-run saltway.roster
        salt-run saltway.roster site1
    """
    words = {True: "up", False: "down"}

    def ask():
        answer = _bridge().get("roster", limit=2000000, site=site)
        return {
            one["id"]: {minion["id"]: words.get(minion.get("up"), "unknown") for minion in one.get("minions", [])}
            for one in answer.get("sites", [])
        }

    return _answered(ask)


def metrics(name="saltway_"):
    """
    The bridge's metrics, by their name and labels.

    name
        How the names begin.

    .. code-block:: bash

        salt-run saltway.metrics
        salt-run saltway.metrics saltway_site_up
    """

    def ask():
        found = {}
        for line in _bridge().fetch("/metrics").decode("utf-8", "replace").splitlines():
            series, _, value = line.rpartition(" ")
            if series.startswith(name):
                found[series] = float(value)
        return found

    return _answered(ask)


def redeliver(jid, minions=None, force=False):
    """
    Sends a job again, under its own jid, to minions that did not get it. The master's job cache keeps the job as it is.

    Nobody is sent it who has returned or acknowledged it; a minion that remembers the jid does not run it again.

    jid
        The job's id.
    minions
        A list of ids, or ids with commas between them; without it everybody who is missing.
    force
        Also when the job has expired, and to minions of whom nobody knows whether they ran it, as they give no receipts.

    .. code-block:: bash

        salt-run saltway.redeliver 20261121173800110002
        salt-run saltway.redeliver 20261121173800110002 minions=web1,web2 force=True
    """
    wanted = [one.strip() for one in minions.split(",") if one.strip()] if isinstance(minions, str) else minions
    wanted = [str(one) for one in wanted] if wanted is not None else None

    def ask():
        answer = redelivery.redeliver(__opts__, _bridge(), str(jid), wanted, force is True, __user__)
        complete = not answer.get("error") and not answer["refused"]
        return answer if complete else _with_retcode(answer, MISSING)

    return _answered(ask)


def rollout(tgt, fun, *args, **kwargs):
    """
    Runs a function in stages over all sites: a few minions first, and the next only while the ones before went well.

    Each stage is an ordinary job in your name, for a list of minions that takes from every site in proportion. The bridge's ledger
    judges it: returned with retcode 0, failed, or silent. Progress goes to standard error and, as
    ``saltway/rollout/<id>/...``, to the event bus. Ctrl-C leaves the running stage to itself; ``saltway.rollout_resume`` goes on.

    tgt, tgt_type
        As for ``salt``; ``tgt_type`` is ``glob`` unless you say otherwise. Where only the sites can tell whom a target means
        (grains, pillar), a ``test.ping`` with that target goes first. Minions of sites that are down are left out, and named.
    fun and what follows
        The function, its arguments and named arguments. Those named as the ones below go into ``kwarg``: a dictionary.
    stages
        How many minions have been taken in all at the end of each stage, as numbers or percentages: ``1,10%,100%``.
    stop_after
        Failed and silent minions, all stages together, that stop it before the next stage: a number, a percentage of those tried,
        or ``never``. Default 1.
    pause
        Between two stages: seconds, or ``ask`` to wait for Enter or ``saltway.rollout_continue``. Default 0.
    timeout
        Seconds that a stage may take. Without it the ledger says when a job is over: minions that are known to run it are waited for.
    ret, metadata
        As for ``salt``.
    dry_run
        Say who would be in which stage, and do nothing.

    .. code-block:: bash

        salt-run saltway.rollout '*' state.apply web stages='1,10%,100%' stop_after=2
        salt-run saltway.rollout 'web*' cmd.run 'systemctl restart nginx' stages=3,50%,100% pause=ask timeout=120
    """
    named = {key: value for key, value in kwargs.items() if not key.startswith("__")}
    return _rolled(lambda: roll.begin(__opts__, _bridge(), __user__, tgt, fun, args, named))


def rollouts(limit=20):
    """
    The newest roll-outs, by their id: function, target, user, status, and how many minions went how.

    ``status`` is ``running``, ``paused``, ``stopped``, ``done``, or ``interrupted`` where the process that drove it is gone.

    .. code-block:: bash

        salt-run saltway.rollouts
    """
    return _answered(lambda: roll.listed(__opts__, limit))


def rollout_show(rid):
    """
    One roll-out: each stage with its job, and the minions that failed or are silent.

    .. code-block:: bash

        salt-run saltway.rollout_show 20261121173800110002
    """
    return _rolled(lambda: roll.show(__opts__, rid))


def rollout_pause(rid):
    """
    Has a running roll-out wait before its next stage.

    .. code-block:: bash

        salt-run saltway.rollout_pause 20261121173800110002
    """
    return _answered(lambda: roll.want(__opts__, rid, "pause"))


def rollout_continue(rid):
    """
    Has a roll-out that waits go on.

    .. code-block:: bash

        salt-run saltway.rollout_continue 20261121173800110002
    """
    return _answered(lambda: roll.want(__opts__, rid, "continue"))


def rollout_stop(rid):
    """
    Has a roll-out begin no further stage. What a running stage's minions have begun they finish.

    .. code-block:: bash

        salt-run saltway.rollout_stop 20261121173800110002
    """
    return _answered(lambda: roll.want(__opts__, rid, "stop"))


def rollout_resume(rid):
    """
    Goes on with a roll-out whose process is gone, or that was stopped, in this process.

    A stage that was published is judged, not published again. After a stop the threshold counts from here.

    .. code-block:: bash

        salt-run saltway.rollout_resume 20261121173800110002
    """
    return _rolled(lambda: roll.resume(__opts__, _bridge(), rid))


def _answered(ask):
    """What `ask` returns, or why it could not be asked, as data: a traceback helps nobody."""
    try:
        return ask()
    except bridge.CannotAsk as err:
        return _with_retcode({"error": err.error, "hint": err.hint}, CANNOT_ASK)


def _told(answer, misses):
    """The answer, with the exit code for `salt-run` where somebody is missing."""
    _by_id(answer, "sites")
    return _with_retcode(answer, MISSING) if misses else answer


def _rolled(drive):
    """How a roll-out went; the exit code is 1 unless everybody did it."""

    def ask():
        answer = drive()
        fine = answer["status"] in ("done", "dry run") and not answer["bad"] and not answer["left_out"] and not answer["sites_unasked"]
        return answer if fine else _with_retcode(answer, MISSING)

    return _answered(ask)


def _with_retcode(answer, code):
    # The one is for `salt-run`, the other for the job's `success`, which orchestration and salt-api look at.
    answer["retcode"] = code
    __context__["retcode"] = code
    return answer


def _by_id(one, key):
    """Turns a list of things with ids into a dictionary, which Salt's outputters show better."""
    if isinstance(one.get(key), list):
        one[key] = {item.pop("id"): item for item in one[key]}
    return one


def _bridge():
    return bridge.Bridge(__opts__)
