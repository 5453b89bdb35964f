"""
What the ledger's answer about a job says of a stage: who did it, who failed, who is silent, and whether to wait on.

- A minion counts once, by the worst that is said of it; one that the ledger does not name is silent.
- A stage is over when everybody is back; when the ledger has closed the job and nobody is known to run it any more; or at its
  time-out. With a time-out of the caller's own, whoever might still run it is waited for until then.
"""

# Longest that a stage lasts without a time-out of its own: somebody runs the job, and does not end.
TIMEOUT_MAX = 3600
# From the best to the worst.
KINDS = ("gone", "ok", "failed", "silent")
RUNS = ("running", "received", "waiting")
MAY_RUN = RUNS + ("silent", "no_receipts", "unknown")


def kind(verdict):
    """What a verdict means for a stage."""
    return {"returned": "ok", "failed": "failed", "unmatched": "gone"}.get(verdict, "silent")


def verdicts(job, stage):
    """The verdict on each minion of the stage: `{(id, site): verdict}`."""
    sites = dict(map(tuple, stage["minions"]))
    found = {}
    for minion in job.get("minions") or []:
        one, verdict = minion.get("id"), minion.get("verdict") or "unknown"
        if one in sites and (one not in found or KINDS.index(kind(verdict)) > KINDS.index(kind(found[one]))):
            found[one] = verdict
    return {(one, site): found.get(one, "unknown") for one, site in stage["minions"]}


def counts(found):
    """How many are of each kind."""
    kinds = [kind(verdict) for verdict in found.values()]
    return {word: kinds.count(word) for word in KINDS}


def may_be_over(job, stage, timeout, now):
    """Whether it is worth while to look at each minion: an answer with all of them is large."""
    return job.get("state") != "open" or job.get("returned", 0) >= len(stage["minions"]) or now >= deadline(stage, timeout)


def is_over(job, found, stage, timeout, now):
    """Whether nothing is to be waited for any more."""
    left = [verdict for verdict in found.values() if kind(verdict) == "silent"]
    if not left or now >= deadline(stage, timeout):
        return True
    waited_for = MAY_RUN if timeout else RUNS
    return job.get("state") != "open" and not any(verdict in waited_for for verdict in left)


def deadline(stage, timeout):
    """When a stage is over in any case."""
    return stage["began"] + (timeout or TIMEOUT_MAX)
