"""The master's job cache, whichever returner it is."""

import salt.minion


def load(opts, jid):
    """What was published under `jid`, as the master saved it; empty if it does not know the job."""
    name = "{}.get_load".format(opts.get("ext_job_cache") or opts["master_job_cache"])
    # As Salt's own `jobs` runner does it. (3008 warns of a MasterMinion that is "unclosed" even after its `destroy`.)
    returners = salt.minion.MasterMinion(opts, states=False, rend=False, matcher=False).returners
    return returners[name](jid) or {}


def has(opts, jid):
    """Whether it knows the job; where it cannot tell, it counts as known."""
    try:
        return bool(load(opts, jid))
    except Exception:  # pylint: disable=broad-except
        return True
