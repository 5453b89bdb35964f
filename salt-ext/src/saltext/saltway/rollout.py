"""
Drives one roll-out: publishes stage after stage as ordinary jobs, and has each judged by the bridge's ledger.

- A stage's jid is on disk before the job is published: whoever resumes it never publishes it under another one.
- A stage is published only when the one before is judged and did not pass the threshold.
- What the bridge cannot say is waited for, at most `PATIENCE`; a roll-out never goes on unjudged.
- One process drives a roll-out (`Rollouts.driving`); others ask for a pause or a stop through its files.
"""

import select
import sys
import time

import salt.client
import salt.utils.event
import salt.utils.jid

from saltext.saltway import bridge as bridges
from saltext.saltway import job_cache, judge, stages

# How often the ledger is asked, and what was wanted is looked up.
POLL = 1.0
# A bridge that restarts needs seconds; what is away for longer wants a person, who resumes.
PATIENCE = 300
# Between two lines of progress of one stage.
TELL_EVERY = 5
SHOWN_MAX = 100
OVER = ("done", "stopped")


class Driver:
    """One roll-out and its process."""

    def __init__(self, opts, state, kept, ledger, resumed=False):
        self.opts, self.state, self.kept, self.ledger = opts, state, kept, ledger
        # Whoever resumes a roll-out has been asked already.
        self._asked = resumed

    def run(self):
        """Until it is over; the state then says how."""
        state = self.state
        self._set("running", "")
        stage = None
        for number, stage in enumerate(state["stages"], 1):
            if stage.get("ended"):
                continue
            if not stage.get("jid") and not self._may_begin(number):
                return
            self._begin(number, stage)
            self._judge(number, stage)
            if self._is_passed(number):
                return
        left = sum(len(ids) for ids in state["left_out"].values())
        self._set("done", "{} were left out: see `left_out`".format(counted(left, "minion")) if left or state["sites_unasked"] else "")
        self.tell("{}: all {} done".format(state["id"], counted(len(state["stages"]), "stage")))

    def tell(self, line):
        """A line for whoever watches; standard output is the answer's."""
        try:
            print(line, file=sys.stderr, flush=True)
        except (OSError, ValueError):
            pass  # A master that runs this for salt-api has no standard error.

    def _set(self, status, reason):
        self.state.update(status=status, reason=reason)
        self.kept.save(self.state)
        self._fire(status, {"reason": reason})

    def _fire(self, what, more):
        """An event for reactors; the roll-out does not depend on it."""
        state = self.state
        data = {"v": 1, "id": state["id"], "fun": state["fun"], "user": state["user"], **more}
        with salt.utils.event.get_master_event(self.opts, self.opts["sock_dir"], listen=False) as event:
            event.fire_event(data, "saltway/rollout/{}/{}".format(state["id"], what))

    # Before a stage.

    def _may_begin(self, number):
        """Waits as long as the pause lasts; False if the roll-out was stopped."""
        pause = self.state["pause"] if number > 1 and not self._asked else 0
        self._asked = False
        paused = pause == "ask"
        until = time.time() + (0 if paused else pause)
        while True:
            wanted = self._wanted()
            if wanted == "stop":
                self._stop("stopped by hand")
                return False
            paused = (paused or wanted == "pause") and wanted != "continue"
            until = 0 if wanted == "continue" else until
            if paused and self.state["status"] != "paused":
                self._set("paused", "before stage {}".format(number))
                self.tell("paused before {}{}".format(self._name(number), "; Enter goes on, `stop` stops it" if _asks() else ""))
                self.tell("or: salt-run saltway.rollout_continue {}, or rollout_stop".format(self.state["id"]))
            if not paused and self.state["status"] == "paused":
                self._set("running", "")
                until = 0
            if not paused and time.time() >= until:
                return True
            self._wait()

    def _wanted(self):
        wanted = self.kept.wanted(self.state["id"])
        if wanted:
            self.kept.answered(self.state["id"])
        return wanted

    def _wait(self):
        """A moment; what is typed meanwhile counts as asked for."""
        if self.state["status"] == "paused" and _asks():
            if select.select([sys.stdin], [], [], POLL)[0]:
                line = sys.stdin.readline()
                if line:
                    self.kept.want(self.state["id"], "stop" if line.strip().lower() in ("stop", "n", "no", "q") else "continue")
                    return
        time.sleep(POLL)

    def _begin(self, number, stage):
        """Publishes the stage's job, unless it was published before this process began."""
        resumed = bool(stage.get("jid"))
        if not resumed:
            stage.update(jid=salt.utils.jid.gen_jid(self.opts), began=time.time())
            self.kept.save(self.state)
        if not resumed or not job_cache.has(self.opts, stage["jid"]):
            publish(self.opts, self.state, [one for one, _ in stage["minions"]], "list", stage["jid"])
        self.tell("{}: {}, job {}{}".format(self._name(number), counted(len(stage["minions"]), "minion"), stage["jid"], ", resumed" if resumed else ""))
        self._fire("stage", {"stage": number, "stages": len(self.state["stages"]), "jid": stage["jid"], "minions": len(stage["minions"])})

    # After it.

    def _judge(self, number, stage):
        """Waits until the stage is over, and writes down how it went."""
        told, told_at = "", time.time()
        while True:
            job = self._patiently(lambda: self.ledger.get("jobs/" + stage["jid"], limit=1))
            verdicts = None
            if self._stopped_meanwhile() or judge.may_be_over(job, stage, self.state["timeout"], time.time()):
                verdicts = judge.verdicts(self._patiently(lambda: self.ledger.get("jobs/" + stage["jid"], limit=1000000)), stage)
                if self.state["stopping"] or judge.is_over(job, verdicts, stage, self.state["timeout"], time.time()):
                    break
            line = "{}: {} of {} returned, {} failed".format(self._name(number), job.get("returned", 0), len(stage["minions"]), job.get("failed", 0))
            if line != told and time.time() >= told_at + TELL_EVERY:
                told, told_at = line, time.time()
                self.tell(line)
            time.sleep(POLL if verdicts is None else 5 * POLL)
        stage.update(ended=time.time(), **judge.counts(verdicts))
        stage["bad"] = [[one, site, verdict] for (one, site), verdict in verdicts.items() if judge.kind(verdict) in ("failed", "silent")]
        self.kept.save(self.state)
        counts = {key: stage[key] for key in ("ok", "failed", "silent", "gone")}
        self.tell("{0}: {ok} ok, {failed} failed, {silent} silent after {1:.1f} s".format(self._name(number), stage["ended"] - stage["began"], **counts))
        self._fire("judged", {"stage": number, "jid": stage["jid"], **counts})

    def _stopped_meanwhile(self):
        wanted = self._wanted()
        if wanted == "stop":
            self.state["stopping"] = True
        elif wanted:
            # It counts before the next stage.
            self.state["pausing"] = wanted == "pause"
        return self.state["stopping"]

    def _is_passed(self, number):
        state = self.state
        judged = [stage for stage in state["stages"][state["counted_from"] :] if stage.get("ended")]
        bad = sum(stage["failed"] + stage["silent"] for stage in judged)
        tried = sum(len(stage["minions"]) - stage["gone"] for stage in judged)
        if state["stopping"]:
            self._stop("stopped by hand")
            return True
        if stages.is_passed(stages.threshold(state["stop_after"]), bad, tried):
            self._stop("{} of {} failed or are silent (stop_after={})".format(bad, counted(tried, "minion"), state["stop_after"]))
            return True
        if state["pausing"] and number < len(state["stages"]):
            self.kept.want(state["id"], "pause")
        state["pausing"] = False
        return False

    def _stop(self, reason):
        untouched = sum(len(stage["minions"]) for stage in self.state["stages"] if not stage.get("jid"))
        self.state["stopping"] = False
        self._set("stopped", reason)
        self.tell("stopped: {}; {} untouched".format(reason, counted(untouched, "minion")))

    def _patiently(self, ask):
        """What `ask` returns, as soon as the bridge answers and knows the job."""
        until = time.time() + PATIENCE
        told = False
        while True:
            try:
                return ask()
            except bridges.CannotAsk as err:
                # The job appears in the ledger a moment after it was published.
                if err.status not in (None, 404, 503) or time.time() > until:
                    raise
                if not told and time.time() > until - PATIENCE + 10:
                    told = True
                    self.tell("waiting for the bridge: {}".format(err.error))
            time.sleep(POLL)

    def _name(self, number):
        return "stage {} of {}".format(number, len(self.state["stages"]))


def publish(opts, state, tgt, tgt_type, jid="", fun=None):
    """Publishes the roll-out's job, or `fun` without arguments, to `tgt` in the caller's name; the jid."""
    more = {"metadata": state["metadata"]} if state["metadata"] else {}
    call = (state["arg"], state["kwarg"]) if fun is None else ([], {})
    with salt.client.get_local_client(mopts=opts) as client:
        # The audit and the job cache name who asked, not whom the runner runs as.
        client.salt_user = state["user"] or client.salt_user
        said = client.run_job(
            tgt, fun or state["fun"], call[0], tgt_type=tgt_type, ret=state["ret"] if fun is None else "", jid=jid, kwarg=call[1] or None, **more
        )
    if not said or not said.get("jid"):
        raise bridges.CannotAsk("the master did not publish the job", "see its log; salt {} test.ping tells more".format(tgt if tgt_type == "glob" else "'*'"))
    return str(said["jid"])


def report(state, is_driven, whole=True):
    """A roll-out for people and programs."""
    done = state["stages"]
    shown = {key: state[key] for key in ("fun", "tgt", "tgt_type", "user", "status", "reason")}
    if state["status"] not in OVER and not is_driven:
        shown.update(status="interrupted", reason="no process drives it: salt-run saltway.rollout_resume {}".format(state["id"]))
    shown["minions"] = sum(len(stage["minions"]) for stage in done)
    shown.update({key: sum(stage.get(key, 0) for stage in done) for key in ("ok", "failed", "silent", "gone")})
    shown["untouched"] = sum(len(stage["minions"]) for stage in done if not stage.get("jid"))
    if whole:
        shown["id"] = state["id"]
        shown["stages"] = {str(number): _stage(stage) for number, stage in enumerate(done, 1)}
        bad = [one for stage in done for one in stage.get("bad", [])]
        shown["bad"] = {one: {"site": site, "verdict": verdict} for one, site, verdict in bad[:SHOWN_MAX]}
        shown["left_out"] = {site: ids[:SHOWN_MAX] for site, ids in state["left_out"].items()}
        shown["sites_unasked"] = state["sites_unasked"]
    return shown


def _stage(stage):
    shown = {"minions": len(stage["minions"]), "jid": stage.get("jid", "")}
    if stage.get("ended"):
        shown.update({key: stage[key] for key in ("ok", "failed", "silent", "gone")}, seconds=round(stage["ended"] - stage["began"], 1))
    return shown


def _asks():
    """Whether somebody at a terminal can be asked."""
    try:
        return sys.stdin.isatty() and sys.stderr.isatty()
    except (AttributeError, OSError, ValueError):
        return False


def counted(count, noun):
    """`1 minion`, `2 minions`."""
    return "{} {}{}".format(count, noun, "" if count == 1 else "s")
