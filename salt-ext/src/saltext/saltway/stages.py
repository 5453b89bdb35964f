"""
Which minions each stage of a roll-out takes: pure, no I/O.

- Stages say how many minions have been taken in all when they end: `1,10%,100%`.
- Every stretch of the order takes from the sites in proportion to their sizes.
- Within a site the order is a shuffle by the roll-out's id: the same id gives the same order again, another one another.
"""

import hashlib
import math
import re


class Wrong(ValueError):
    """A mistake in what was typed."""


def parse(text):
    """`1,10%,100%` as a list of `(number, is_percent)`."""
    found = []
    for part in str(text).split(","):
        matched = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(%?)\s*", part)
        number = float(matched.group(1)) if matched else 0.0
        percent = bool(matched and matched.group(2))
        if number <= 0 or percent and number > 100 or not percent and number != int(number):
            raise Wrong("stages={}: `{}` is neither a number of minions nor a percentage; write 1,10%,100%".format(text, part.strip()))
        found.append((number, percent))
    return found


def ends(stages, total):
    """How many minions of `total` have been taken at the end of each stage, without stages that would take nobody."""
    found = []
    for number, percent in stages:
        end = min(total, math.ceil(total * number / 100 - 1e-9) if percent else int(number))
        if end > (found[-1] if found else 0):
            found.append(end)
    return found


def spread(sites, seed):
    """The minions of `sites` (`{site: [ids]}`) in the order in which they are taken: `[(id, site)]`, each id once."""
    placed = []
    seen = set()
    for site in sorted(sites):
        own = sorted({str(one) for one in sites[site]} - seen, key=lambda one: _shuffled(seed, one))
        seen.update(own)
        # The i-th of n comes at (i + x) / n of the way, with an x of its site's own: else of a thousand sites with one
        # minion each all would come at the same place, and the largest site would give every canary.
        own_place = int.from_bytes(_shuffled(seed, "site " + str(site))[:6], "big") / 2**48
        placed.extend(((at + own_place) / len(own), str(site), one) for at, one in enumerate(own))
    return [(one, site) for _, site, one in sorted(placed)]


def plan(sites, stages, seed):
    """The stages: for each a list of `(id, site)`."""
    order = spread(sites, seed)
    begins = 0
    planned = []
    for end in ends(stages, len(order)):
        planned.append(order[begins:end])
        begins = end
    return planned


def threshold(text):
    """`3`, `5%` or `never` as `(number, is_percent)` or None."""
    if str(text).lower() in ("never", "none", "false"):
        return None
    matched = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(%?)\s*", str(text))
    number = float(matched.group(1)) if matched else 0.0
    percent = bool(matched and matched.group(2))
    if number <= 0 or percent and number > 100 or not percent and number != int(number):
        raise Wrong("stop_after={}: write a number of minions from 1 on, a percentage, or never".format(text))
    return number, percent


def is_passed(limit, bad, tried):
    """Whether `bad` of `tried` minions are enough to stop."""
    if limit is None or not tried or not bad:
        return False
    number, percent = limit
    return 100 * bad / tried >= number if percent else bad >= number


def _shuffled(seed, text):
    return hashlib.sha256("{}\n{}".format(seed, text).encode()).digest()
