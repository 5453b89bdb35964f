"""Roll-outs in a world without Salt: who is in which stage, when it stops, and what a kill costs. `tests/run` starts it."""

import json
import os
import threading
import time
import unittest

from world import Killed, World

from saltext.saltway import bridge, judge, roll, rollout, rollouts, stages

SITES = {"fra": ["f%d" % at for at in range(60)], "nyc": ["n%d" % at for at in range(30)], "ams": ["a%d" % at for at in range(10)]}


class Stages(unittest.TestCase):
    def test_each_stretch_takes_from_every_site_in_proportion(self):
        for seed in range(20):
            plan = stages.plan(SITES, stages.parse("10,50%,100%"), seed)
            self.assertEqual([len(one) for one in plan], [10, 40, 50])
            for stage, share in zip(plan, (0.1, 0.4, 0.5)):
                for site, ids in SITES.items():
                    self.assertAlmostEqual(sum(of == site for _, of in stage), share * len(ids), delta=2, msg=f"{seed} {site}")
            self.assertEqual(sorted(one for stage in plan for one, _ in stage), sorted(one for ids in SITES.values() for one in ids))

    def test_many_small_sites_have_their_share_beside_a_large_one(self):
        sites = {"large": ["l%d" % at for at in range(500)], **{"s%d" % at: ["m%d" % at] for at in range(500)}}
        first = stages.plan(sites, stages.parse("10%"), "x")[0]
        self.assertAlmostEqual(sum(site == "large" for _, site in first), 50, delta=15)

    def test_the_same_id_gives_the_same_order_and_another_one_another(self):
        one, again, other = (stages.spread(SITES, seed) for seed in ("a", "a", "b"))
        self.assertEqual(one, again)
        self.assertNotEqual(one, other)

    def test_a_minion_of_two_sites_is_in_one_stage(self):
        self.assertEqual(len(stages.spread({"a": ["x", "y"], "b": ["x"]}, 1)), 2)

    def test_stages_that_would_take_nobody_are_left_out(self):
        for text, total, expected in (
            ("1,10%,100%", 5, [1, 5]),
            ("1,10%,100%", 1, [1]),
            ("5,3,100%", 10, [5, 10]),
            ("10%", 95, [10]),
            ("200", 7, [7]),
            ("0.1%,100%", 3000, [3, 3000]),
        ):
            self.assertEqual(stages.ends(stages.parse(text), total), expected, text)

    def test_what_cannot_be_meant_is_refused(self):
        for text in ("", "0", "101%", "x", "1,,2", "-3", "1.5", "10 %%"):
            with self.assertRaises(stages.Wrong, msg=text):
                stages.parse(text)
        for text in ("0", "101%", "x", "-1"):
            with self.assertRaises(stages.Wrong, msg=text):
                stages.threshold(text)

    def test_threshold(self):
        for text, bad, tried, expected in (
            ("1", 0, 5, False),
            ("1", 1, 5, True),
            ("3", 2, 100, False),
            ("3", 3, 100, True),
            ("10%", 9, 100, False),
            ("10%", 10, 100, True),
            ("10%", 1, 1, True),
            ("never", 5, 5, False),
        ):
            self.assertEqual(stages.is_passed(stages.threshold(text), bad, tried), expected, text)


class Judgement(unittest.TestCase):
    STAGE = {"minions": [["a", "s"], ["b", "s"]], "began": 1000.0}

    def over(self, state, verdicts, timeout=None, now=1010.0):
        job = {"state": state, "minions": [{"id": one, "verdict": verdict} for one, verdict in verdicts.items()]}
        return judge.is_over(job, judge.verdicts(job, self.STAGE), self.STAGE, timeout, now)

    def test_a_stage_is_over_when_nothing_is_to_be_waited_for(self):
        self.assertTrue(self.over("open", {"a": "returned", "b": "failed"}))
        self.assertFalse(self.over("open", {"a": "returned", "b": "waiting"}))
        self.assertFalse(self.over("incomplete", {"a": "returned", "b": "running"}))
        self.assertTrue(self.over("incomplete", {"a": "returned", "b": "silent"}))
        self.assertFalse(self.over("incomplete", {"a": "returned", "b": "silent"}, timeout=60))
        self.assertTrue(self.over("incomplete", {"a": "returned", "b": "silent"}, timeout=60, now=1060.0))
        self.assertTrue(self.over("incomplete", {"a": "returned", "b": "unreachable"}, timeout=60))
        self.assertTrue(self.over("open", {"a": "returned", "b": "waiting"}, now=1000.0 + judge.TIMEOUT_MAX))

    def test_a_minion_counts_by_the_worst_and_one_that_is_not_named_is_silent(self):
        job = {"minions": [{"id": "a", "verdict": "failed"}, {"id": "a", "verdict": "returned"}]}
        found = judge.verdicts(job, self.STAGE)
        self.assertEqual(judge.counts(found), {"gone": 0, "ok": 0, "failed": 1, "silent": 1})


class Course(unittest.TestCase):
    def test_each_minion_gets_one_job_in_the_caller_s_name(self):
        world = World(self, SITES)
        answer = world.rollout("*", "state.apply", "web", test=True)
        self.assertEqual((answer["status"], answer["ok"], answer["untouched"], answer["bad"]), ("done", 100, 0, {}))
        self.assertEqual([len(tgt) for _, tgt, _, _ in world.published], [1, 9, 90])
        self.assertEqual(sorted(one for _, tgt, _, _ in world.published for one in tgt), sorted(sum(SITES.values(), [])))
        self.assertEqual({user for *_, user in world.published}, {"sudo_anna"})
        self.assertEqual(len({jid for jid, *_ in world.published}), 3)
        self.assertEqual([what for what, _ in world.events], ["running"] + ["stage", "judged"] * 3 + ["done"])

    def test_it_stops_before_the_next_stage_when_the_threshold_is_passed(self):
        world = World(self, SITES)
        world.behaviour = {one: "failed" for one in SITES["fra"]}
        answer = world.rollout("*", stages="10,50%,100%", stop_after=3)
        self.assertEqual((answer["status"], len(world.published), answer["untouched"]), ("stopped", 1, 90))
        self.assertGreaterEqual(answer["failed"], 3)
        self.assertEqual({one["verdict"] for one in answer["bad"].values()}, {"failed"})

    def test_silent_minions_count_as_failed_ones(self):
        world = World(self, {"s": ["a", "b", "c"]})
        world.behaviour = {"a": "silent", "b": "not_received", "c": "unreachable"}
        answer = world.rollout("*", stages="100%", stop_after="never")
        self.assertEqual((answer["status"], answer["silent"], answer["ok"]), ("done", 3, 0))

    def test_silent_minions_stop_it_as_failed_ones_do(self):
        world = World(self, {"s": ["m%d" % at for at in range(20)]})
        world.behaviour = {"m%d" % at: "not_received" for at in range(20)}
        answer = world.rollout("*", stages="4,100%", stop_after=4)
        self.assertEqual((answer["status"], answer["silent"], answer["untouched"]), ("stopped", 4, 16))

    def test_minions_of_sites_that_are_down_are_left_out_and_named(self):
        world = World(self, SITES, down=["ams"])
        answer = world.rollout()
        self.assertEqual((answer["minions"], answer["left_out"]), (90, {"ams": SITES["ams"]}))
        self.assertTrue(any("ams" in line for line in world.said))

    def test_where_only_sites_know_whom_a_target_means_they_are_pinged_first(self):
        world = World(self, SITES, ask=["fra", "nyc"])
        answer = world.rollout("os:Debian", "cmd.run", "true", tgt_type="grain")
        self.assertEqual(world.published[0][1:3], ("os:Debian", "test.ping"))
        self.assertEqual((answer["minions"], len(world.published)), (100, 4))

    def test_a_dry_run_publishes_nothing_and_keeps_nothing(self):
        world = World(self, SITES)
        answer = world.rollout(dry_run=True)
        self.assertEqual((world.published, rollouts.Rollouts(world.opts["cachedir"]).ids()), ([], []))
        self.assertEqual([len(stage["minions"]) for stage in answer["stages"].values()], [1, 9, 90])

    def test_a_long_list_is_asked_in_parts(self):
        ids = ["minion-%04d.example.com" % at for at in range(1000)]
        world = World(self, {"s": ids})
        self.assertEqual(world.rollout(",".join(ids), tgt_type="list")["ok"], 1000)
        self.assertTrue(all(len(query["tgt"]) < 4100 for path, query in world.asked if path == "expect"))

    def test_a_bridge_that_is_away_is_waited_for_and_nothing_is_begun_unjudged(self):
        world = World(self, SITES)
        world.after_publish = lambda world: setattr(world, "away", 5)
        self.assertEqual(world.rollout()["status"], "done")
        world.after_publish = lambda world: setattr(world, "away", 10**9)
        with self.assertRaises(bridge.CannotAsk) as raised:
            world.rollout()
        self.assertEqual(len(world.published), 3 + 1)
        self.assertIn("rollout_resume", raised.exception.hint)

    def test_what_cannot_be_meant_is_said_before_anything_is_published(self):
        world = World(self, SITES)
        for named in ({"stages": "x"}, {"stop_after": 0}, {"pause": "long"}, {"timeout": -1}, {"kwarg": "x"}):
            with self.assertRaises(bridge.CannotAsk, msg=named):
                world.rollout(**named)
        with self.assertRaises(bridge.CannotAsk):
            World(self, {"s": []}).rollout()
        self.assertEqual(world.published, [])


class Kept(unittest.TestCase):
    def killed(self, world, **when):
        """A roll-out whose process dies at the second publication; its id."""

        def die(world):
            if len(world.published) == when["published"]:
                raise Killed

        setattr(world, when["at"], die)
        with self.assertRaises(Killed):
            world.rollout()
        setattr(world, when["at"], lambda world: None)
        return rollouts.Rollouts(world.opts["cachedir"]).ids()[0]

    def test_a_killed_one_goes_on_and_publishes_nothing_twice(self):
        for at, published in (("before_publish", 1), ("after_publish", 2)):
            world = World(self, SITES)
            rid = self.killed(world, at=at, published=published)
            self.assertEqual(roll.listed(world.opts, 5)[rid]["status"], "interrupted")
            answer = roll.resume(world.opts, world, rid)
            self.assertEqual((answer["status"], answer["ok"]), ("done", 100), at)
            self.assertEqual([len(tgt) for _, tgt, _, _ in world.published], [1, 9, 90], at)

    def test_one_process_drives_it(self):
        world = World(self, SITES)
        rid = self.killed(world, at="after_publish", published=1)
        with rollouts.Rollouts(world.opts["cachedir"]).driving(rid):
            with self.assertRaises(bridge.CannotAsk):
                roll.resume(world.opts, world, rid)

    def test_a_stopped_one_can_be_resumed_and_counts_from_there(self):
        world = World(self, SITES)
        world.behaviour = {one: "failed" for one in sum(SITES.values(), [])}
        rid = world.rollout()["id"]
        world.behaviour = {}
        answer = roll.resume(world.opts, world, rid)
        self.assertEqual((answer["status"], answer["failed"], answer["ok"]), ("done", 1, 99))

    def test_a_damaged_file_is_told(self):
        world = World(self, SITES)
        rid = world.rollout()["id"]
        kept = rollouts.Rollouts(world.opts["cachedir"])
        with open(kept._path(rid, "json"), "w", encoding="utf-8") as file:
            file.write('{"v": 1')
        for rid in (rid, "../../etc/passwd", "20200101000000000000"):
            with self.assertRaises(bridge.CannotAsk, msg=rid):
                roll.show(world.opts, rid)

    def test_an_id_cannot_leave_the_directory(self):
        world = World(self, SITES)
        kept = rollouts.Rollouts(world.opts["cachedir"])
        rid = world.rollout()["id"]
        os.rename(kept._path(rid, "json"), os.path.join(kept.dir, "..", "other.json"))
        for what in (roll.show, lambda opts, rid: roll.want(opts, rid, "stop")):
            with self.assertRaises(bridge.CannotAsk) as raised:
                what(world.opts, "../other")
            self.assertIn("no id", raised.exception.error)

    def test_the_oldest_that_are_over_are_forgotten(self):
        world = World(self, {"s": ["a"]})
        kept = rollouts.Rollouts(world.opts["cachedir"])
        state = roll._state({}, "root", "*", "test.ping", (), {})
        for at in range(rollouts.KEPT_MAX + 5):
            kept.save(dict(state, id="%020d" % at, status="running" if at == 0 else "done"))
        world.rollout()
        ids = kept.ids()
        self.assertEqual((len(ids), ids[-1]), (rollouts.KEPT_MAX + 1, "%020d" % 0))


class Asked(unittest.TestCase):
    def driven(self, world, **named):
        """A roll-out in a thread of its own, and its id once it has begun."""
        answers = []
        thread = threading.Thread(target=lambda: answers.append(world.rollout(**named)), daemon=True)
        thread.start()
        self.until(lambda: rollouts.Rollouts(world.opts["cachedir"]).ids())
        return thread, answers, rollouts.Rollouts(world.opts["cachedir"]).ids()[0]

    def until(self, condition):
        ends = time.monotonic() + 20
        while not condition():
            self.assertLess(time.monotonic(), ends, "not within 20 s")
            time.sleep(0.01)

    def status(self, world, rid):
        return roll.listed(world.opts, 1)[rid]["status"]

    def test_ask_waits_before_each_stage_until_told(self):
        world = World(self, SITES)
        thread, answers, rid = self.driven(world, pause="ask")
        for published in (1, 2):
            self.until(lambda: self.status(world, rid) == "paused" and len(world.published) == published)
            roll.want(world.opts, rid, "continue")
        thread.join(20)
        self.assertEqual((answers[0]["status"], len(world.published)), ("done", 3))

    def test_a_pause_is_asked_for_and_ended_by_stop(self):
        world = World(self, SITES)
        world.behaviour = {one: "running" for one in sum(SITES.values(), [])}
        thread, answers, rid = self.driven(world)
        self.until(lambda: world.published)
        roll.want(world.opts, rid, "pause")
        world.behaviour = {}
        self.until(lambda: self.status(world, rid) == "paused")
        roll.want(world.opts, rid, "stop")
        thread.join(20)
        self.assertEqual((answers[0]["status"], answers[0]["untouched"], len(world.published)), ("stopped", 99, 1))

    def test_stop_in_the_middle_of_a_stage_judges_it_as_it_is(self):
        world = World(self, SITES)
        world.behaviour = {one: "running" for one in sum(SITES.values(), [])}
        thread, answers, rid = self.driven(world, stages="10,100%")
        self.until(lambda: world.published)
        roll.want(world.opts, rid, "stop")
        thread.join(20)
        self.assertEqual((answers[0]["status"], answers[0]["silent"], answers[0]["untouched"]), ("stopped", 10, 90))

    def test_what_nobody_drives_cannot_be_paused(self):
        world = World(self, SITES)
        rid = world.rollout()["id"]
        with self.assertRaises(bridge.CannotAsk):
            roll.want(world.opts, rid, "pause")

    def test_a_pause_in_seconds_passes(self):
        world = World(self, SITES)
        began = time.monotonic()
        self.assertEqual(world.rollout(pause=0.2, stages="1,100%")["status"], "done")
        self.assertGreaterEqual(time.monotonic() - began, 0.2)


class Report(unittest.TestCase):
    def test_it_is_plain_data_of_bounded_size(self):
        world = World(self, {"s": ["m%d" % at for at in range(5000)]})
        world.behaviour = {"m%d" % at: "failed" for at in range(5000)}
        answer = world.rollout(stages="100%")
        self.assertEqual(len(answer["bad"]), rollout.SHOWN_MAX)
        self.assertLess(len(json.dumps(answer)), 20000)


if __name__ == "__main__":
    unittest.main()
