"""
Begins, resumes and shows roll-outs: what was typed becomes a plan, the plan a state on disk, and `rollout.Driver` does the rest.

- The whole plan is made and kept before the first job: a minion is in one stage, and a resumed roll-out has the same stages.
"""

import time

import salt.utils.jid
import salt.utils.minions

from saltext.saltway import bridge as bridges
from saltext.saltway import rollout, rollouts, stages

STAGES = "1,10%,100%"
# How long sites may take to say whom a target by data means: a ping of theirs needs milliseconds.
SITES_ANSWER = 20
# The bridge's own bound for a request is larger.
URL_TEXT_MAX = 4000


def begin(opts, ledger, user, tgt, fun, args, named):
    """Plans a roll-out of what was typed, and drives it."""
    try:
        state = _state(opts, user, tgt, fun, args, named)
    except stages.Wrong as err:
        raise bridges.CannotAsk(str(err), "salt-run -d saltway.rollout") from None
    dry_run = named.get("dry_run") is True
    kept = rollouts.Rollouts(opts["cachedir"])
    driver = rollout.Driver(opts, state, kept, ledger)
    sites, state["left_out"], state["sites_unasked"] = _whom(opts, ledger, state, driver)
    plan = stages.plan(sites, stages.parse(state["spec"]), state["id"])
    if not plan:
        told = ", ".join(sorted(state["left_out"]) + state["sites_unasked"])
        raise bridges.CannotAsk(
            "no minion of a site that is up matches {}".format(tgt), "down or silent: {}".format(told) if told else "salt-run saltway.roster names them"
        )
    state["stages"] = [{"minions": [list(one) for one in minions]} for minions in plan]
    if dry_run:
        answer = rollout.report(dict(state, status="dry run"), True)
        for number, stage in enumerate(state["stages"], 1):
            answer["stages"][str(number)]["minions"] = [one for one, _ in stage["minions"]][: rollout.SHOWN_MAX]
        return answer
    with kept.driving(state["id"]):
        kept.save(state)
        kept.forget_oldest(lambda old: old["status"] in rollout.OVER)
        driver.tell(
            "roll-out {}: {} on {} of {}, {}".format(
                state["id"], fun, rollout.counted(sum(map(len, plan)), "minion"), rollout.counted(len(sites), "site"), ", then ".join(str(len(minions)) for minions in plan)
            )
        )
        for site, ids in sorted(state["left_out"].items()):
            driver.tell("left out: {} of site {}, which is down".format(rollout.counted(len(ids), "minion"), site))
        return _driven(driver)


def resume(opts, ledger, rid):
    """Goes on with `rid` in this process."""
    kept = rollouts.Rollouts(opts["cachedir"])
    state = _known(kept.load, rid)
    try:
        with kept.driving(state["id"]):
            # As it is now: whoever drove it until a moment ago may have written.
            state = kept.load(rid)
            if state["status"] == "done":
                raise bridges.CannotAsk("roll-out {} is done".format(rid), "salt-run saltway.rollout_show {}".format(rid))
            if state["status"] == "stopped":
                state["counted_from"] = sum(1 for stage in state["stages"] if stage.get("ended"))
            state.update(stopping=False, pausing=False)
            kept.answered(rid)
            return _driven(rollout.Driver(opts, state, kept, ledger, resumed=True))
    except rollouts.Busy as err:
        raise bridges.CannotAsk(str(err), "salt-run saltway.rollout_continue {} if it waits".format(rid)) from None


def want(opts, rid, what):
    """Asks whoever drives `rid` for `what`."""
    kept = rollouts.Rollouts(opts["cachedir"])
    state = _known(kept.load, rid)
    if state["status"] in rollout.OVER:
        raise bridges.CannotAsk("roll-out {} is {}".format(rid, state["status"]), "salt-run saltway.rollout_show {}".format(rid))
    if not kept.is_driven(rid):
        if what == "stop":
            state.update(status="stopped", reason="stopped by hand")
            kept.save(state)
            return {"id": str(rid), "status": "stopped"}
        raise bridges.CannotAsk("no process drives roll-out {}".format(rid), "salt-run saltway.rollout_resume {}".format(rid))
    kept.want(rid, what)
    return {"id": str(rid), "asked for": what}


def show(opts, rid):
    """One roll-out."""
    kept = rollouts.Rollouts(opts["cachedir"])
    state = _known(kept.load, rid)
    return rollout.report(state, kept.is_driven(state["id"]))


def listed(opts, limit):
    """The newest, by their id."""
    kept = rollouts.Rollouts(opts["cachedir"])
    return {rid: rollout.report(kept.load(rid), kept.is_driven(rid), whole=False) for rid in kept.ids()[: int(limit)]}


def _known(load, rid):
    try:
        return load(str(rid))
    except rollouts.NoSuch as err:
        raise bridges.CannotAsk(str(err)) from None


def _driven(driver):
    try:
        driver.run()
    except KeyboardInterrupt:
        driver.tell("interrupted; salt-run saltway.rollout_resume {} goes on".format(driver.state["id"]))
        raise
    except bridges.CannotAsk as err:
        err.hint = "salt-run saltway.rollout_resume {} goes on; {}".format(driver.state["id"], err.hint)
        raise
    return rollout.report(driver.state, True)


def _state(opts, user, tgt, fun, args, named):
    """The state of a roll-out that has no stages yet; `Wrong` for what cannot be meant."""
    named = dict(named)
    named.pop("dry_run", None)
    taken = {key: named.pop(key, default) for key, default in (("stages", STAGES), ("stop_after", 1), ("pause", 0), ("timeout", None))}
    options = {key: named.pop(key, default) for key, default in (("tgt_type", "glob"), ("ret", ""), ("metadata", None), ("kwarg", None))}
    stages.parse(taken["stages"])
    stages.threshold(taken["stop_after"])
    for key in ("metadata", "kwarg"):
        if options[key] is not None and not isinstance(options[key], dict):
            raise stages.Wrong("{}={}: write a dictionary".format(key, options[key]))
    return {
        "id": salt.utils.jid.gen_jid(opts)[:20],
        "user": user,
        "tgt": tgt,
        "tgt_type": str(options["tgt_type"]),
        "fun": str(fun),
        "arg": list(args),
        "kwarg": dict(named, **(options["kwarg"] or {})),
        "ret": str(options["ret"] or ""),
        "metadata": options["metadata"],
        "spec": str(taken["stages"]),
        "stop_after": str(taken["stop_after"]),
        "pause": "ask" if taken["pause"] == "ask" else _seconds("pause", taken["pause"]),
        "timeout": None if taken["timeout"] is None else _seconds("timeout", taken["timeout"]),
        "status": "running",
        "reason": "",
        "stopping": False,
        "pausing": False,
        "counted_from": 0,
        "stages": [],
    }


def _seconds(key, value):
    try:
        seconds = float(value)
        if 0 <= seconds < 1e7:
            return seconds
    except (TypeError, ValueError):
        pass
    raise stages.Wrong("{}={}: write seconds{}".format(key, value, " or ask" if key == "pause" else ""))


def _whom(opts, ledger, state, driver):
    """The minions of sites that can be asked, those of sites that are down, and the sites that did not say whom they have."""
    tgt, tgt_type = state["tgt"], state["tgt_type"]
    sites, down, unasked = {}, {}, set()
    for part in _queries(opts, tgt, tgt_type):
        try:
            answer = ledger.get("expect", tgt=part[0], tgt_type=part[1])
        except bridges.CannotAsk as err:
            if err.status != 404:
                raise
            answer = {"ask": ["an older bridge"]}
        unasked.update(answer.get("ask") or [])
        for site in answer.get("sites") or []:
            into = down if site.get("state") == "down" else sites
            if site.get("minions"):
                into.setdefault(site["id"], []).extend(site["minions"])
    if not unasked:
        return sites, down, []
    driver.tell("only the sites can tell whom {} means: test.ping first".format(tgt))
    jid = rollout.publish(opts, state, tgt, tgt_type, fun="test.ping")
    return _of_ping(ledger, jid)


def _of_ping(ledger, jid):
    """Whom the sites say that a job means, as soon as each that is up has answered."""
    until = time.time() + SITES_ANSWER
    while True:
        try:
            job = ledger.get("jobs/" + jid, limit=1000000)
        except bridges.CannotAsk as err:
            if err.status != 404 or time.time() > until:
                raise
            job = {"sites": [{"ask": True}]}
        asked = [site for site in job.get("sites") or [] if site.get("ask") and not site.get("expected") and not site.get("said")]
        if time.time() > until or not any(site.get("state") != "down" for site in asked):
            break
        time.sleep(0.5)
    down = {site["id"] for site in job.get("sites") or [] if site.get("state") == "down"}
    sites, left_out = {}, {}
    for minion in job.get("minions") or []:
        if minion.get("verdict") != "unmatched":
            (left_out if minion.get("site") in down else sites).setdefault(minion.get("site") or "", []).append(minion["id"])
    return sites, left_out, sorted(site["id"] for site in asked)


def _queries(opts, tgt, tgt_type):
    """The target as the bridge is asked for it: a long list in parts, a nodegroup as what it stands for."""
    if tgt_type == "nodegroup":
        resolved = salt.utils.minions.nodegroup_comp(str(tgt), opts.get("nodegroups") or {})
        return [(resolved if isinstance(resolved, str) else " ".join(resolved), "compound")]
    if tgt_type != "list":
        return [(tgt, tgt_type)]
    ids = [str(one).strip() for one in (tgt if isinstance(tgt, (list, tuple)) else str(tgt).split(","))]
    parts, part = [], []
    for one in filter(None, ids):
        if part and len(",".join(part)) + len(one) > URL_TEXT_MAX:
            parts.append(part)
            part = []
        part.append(one)
    return [(",".join(part), "list") for part in parts + [part] if part]
