"""The master's job cache, whichever returner it is."""

import salt.minion


def load(opts, jid):
    """What was published under `jid`, as the master saved it; empty if it does not know the job."""
    name = "{}.get_load".format(opts.get("ext_job_cache") or opts["master_job_cache"])
    minion = salt.minion.MasterMinion(opts, states=False, rend=False, matcher=False)
    try:
        return minion.returners[name](jid) or {}
    finally:
        # Salt 3008 complains of those that are left to themselves; older ones have nothing to end.
        getattr(minion, "destroy", lambda: None)()


def has(opts, jid):
    """Whether it knows the job; where it cannot tell, it counts as known."""
    try:
        return bool(load(opts, jid))
    except Exception:  # pylint: disable=broad-except
        return True
