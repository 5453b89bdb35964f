"""`salt-run saltway.*` of a real Salt, against the bridge of answers from files. `tests/run` starts it."""

import json
import os
import pathlib
import shutil
import ssl
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "cli" / "tests"))
import threading  # noqa: E402

from fake_bridge import FakeBridge  # noqa: E402

RUNNERS = ROOT / "salt-ext/src/saltext/saltway/runners"
SALT_BIN = pathlib.Path(os.environ["SALT_BIN"])
INCOMPLETE, COMPLETE = "20261121173800110002", "20261121172000110004"


class Case(unittest.TestCase):
    """A directory with a master's configuration, a bridge, and the runner in `runner_dirs`."""

    token = None

    def setUp(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="saltway-ext-"))
        self.addCleanup(shutil.rmtree, self.dir)
        # A master makes this one when it starts; none runs here.
        (self.dir / "var/cache/salt/master/proc").mkdir(parents=True)
        self.bridge = FakeBridge(token=self.token)
        threading.Thread(target=self.bridge.serve_forever, daemon=True).start()
        self.addCleanup(self.bridge.server_close)
        self.addCleanup(self.bridge.shutdown)
        self.configure(url=self.bridge.url)

    def configure(self, runner_dirs=True, **saltway):
        options = {
            "root_dir": str(self.dir),
            "user": "root" if os.geteuid() == 0 else os.environ["USER"],
            "log_level_logfile": "quiet",
            "runner_dirs": [str(RUNNERS)] if runner_dirs else [],
            "saltway": saltway,
        }
        (self.dir / "master").write_text(json.dumps(options))

    def salt_run(self, *arguments):
        """What `salt-run` returned, and its exit code."""
        command = [SALT_BIN / "salt-run", "-c", self.dir, "--out=json", "--log-level=error", *arguments]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
        try:
            return json.loads(ran.stdout), ran.returncode
        except ValueError:
            self.fail(f"{arguments}: exit {ran.returncode}\n{ran.stdout}\n{ran.stderr}")


class Questions(Case):
    def test_missing_names_each_minion_and_ends_with_1(self):
        answer, code = self.salt_run("saltway.missing", INCOMPLETE)
        self.assertEqual(code, 1)
        self.assertEqual([one["id"] for one in answer["missing"]], ["sgp-app1", "sgp-app2", "sgp-app3", "ams-pc2"])
        self.assertEqual(answer["sites_unreachable"], ["sgp1"])

    def test_nobody_missing_ends_with_0(self):
        answer, code = self.salt_run("saltway.missing", COMPLETE)
        self.assertEqual((answer["missing"], code), ([], 0))

    def test_job_has_counts_sites_and_minions(self):
        answer, code = self.salt_run("saltway.job", INCOMPLETE, "verdict=unreachable")
        self.assertEqual(code, 1)
        self.assertEqual((answer["expected"], answer["missing"]), (11, 4))
        self.assertEqual(answer["sites"]["sgp1"]["state"], "down")
        self.assertEqual({one["verdict"] for one in answer["minions"]}, {"unreachable"})
        self.assertIn(f"/api/v1/jobs/{INCOMPLETE}?verdict=unreachable&limit=1000", self.bridge.asked)
        answer, code = self.salt_run("saltway.job", COMPLETE)
        self.assertEqual((answer["state"], code), ("complete", 0))

    def test_lists_are_dictionaries_by_id(self):
        jobs, code = self.salt_run("saltway.jobs", "state=incomplete")
        self.assertEqual((list(jobs), code), ([INCOMPLETE], 0))
        self.assertEqual(jobs[INCOMPLETE]["sites"]["fra1"]["returned"], 3)
        sites, code = self.salt_run("saltway.sites")
        self.assertEqual((sites["sgp1"]["state"], sites["fra1"]["state"], code), ("down", "up", 0))
        roster, code = self.salt_run("saltway.roster", "sgp1")
        self.assertEqual((roster, code), ({"sgp1": {"sgp-app1": "down", "sgp-app2": "down", "sgp-app3": "down"}}, 0))

    def test_metrics_are_numbers(self):
        metrics, code = self.salt_run("saltway.metrics", "saltway_site_up")
        self.assertEqual((metrics, code), ({'saltway_site_up{site="fra1"}': 1.0, 'saltway_site_up{site="sgp1"}': 0.0}, 0))


class Actions(Case):
    def test_a_dry_run_tells_who_would_be_in_which_stage(self):
        answer, code = self.salt_run("saltway.rollout", "fra-*", "state.apply", "web", "stages=1,100%", "dry_run=True", "test=True")
        self.assertEqual((answer["status"], answer["minions"], code), ("dry run", 3, 0))
        self.assertEqual([len(stage["minions"]) for stage in answer["stages"].values()], [1, 2])
        self.assertEqual(self.salt_run("saltway.rollouts"), ({}, 0))

    def test_sites_that_are_down_are_left_out_and_end_with_1(self):
        answer, code = self.salt_run("saltway.rollout", "*", "test.ping", "dry_run=True")
        self.assertEqual((list(answer["left_out"]), code), (["sgp1"], 1))

    def test_what_is_wrong_is_said_with_what_to_do(self):
        for arguments in (
            ("saltway.rollout", "*", "test.ping", "stages=some"),
            ("saltway.rollout", "nobody-*", "test.ping"),
            ("saltway.rollout_resume", "20200101000000000000"),
            ("saltway.redeliver", COMPLETE),
        ):
            answer, code = self.salt_run(*arguments)
            self.assertEqual(code, 2, arguments)
            self.assertTrue(answer["error"], arguments)


class Refusals(Case):
    token = "s3cret"

    def test_a_token_is_sent_and_never_shown(self):
        answer, code = self.salt_run("saltway.sites")
        self.assertEqual(code, 2)
        self.assertIn("token_file", answer["hint"])
        token = self.dir / "token"
        token.write_text("s3cret\n")
        self.configure(url=self.bridge.url, token_file=str(token))
        answer, code = self.salt_run("saltway.sites")
        self.assertEqual((answer["fra1"]["state"], code), ("up", 0))
        token.write_text("wr0ng\n")
        answer, code = self.salt_run("saltway.sites")
        self.assertEqual(code, 2)
        self.assertNotIn("wr0ng", json.dumps(answer))

    def test_what_cannot_be_asked_says_what_to_do(self):
        self.configure(url="http://127.0.0.1:9")
        answer, code = self.salt_run("saltway.jobs")
        self.assertEqual(code, 2)
        self.assertIn("systemctl status saltway-bridge", answer["hint"])
        self.configure(config=str(self.dir / "none.yaml"))
        answer, code = self.salt_run("saltway.jobs")
        self.assertEqual(code, 2)
        self.assertIn("none.yaml", answer["error"])
        self.configure(url="mom.example.com")
        self.assertEqual(self.salt_run("saltway.jobs")[1], 2)


class Places(Case):
    def test_the_bridge_s_own_file_names_address_and_token(self):
        port = self.bridge.server_address[1]
        (self.dir / "saltway.yaml").write_text(f"mom: main\nhttp:\n  listen: '0.0.0.0:{port}'\n")
        self.configure(config=str(self.dir / "saltway.yaml"))
        answer, code = self.salt_run("saltway.sites")
        self.assertEqual((len(answer), code), (4, 0))

    def test_https_is_verified_by_the_bridge_s_own_certificate(self):
        cert, key = self.dir / "cert.pem", self.dir / "key.pem"
        make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=mom", "-addext", "subjectAltName=DNS:mom.example.com"]
        subprocess.run([*make, "-keyout", key, "-out", cert], check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        self.bridge.socket = context.wrap_socket(self.bridge.socket, server_side=True)
        port = self.bridge.server_address[1]
        (self.dir / "saltway.yaml").write_text(f"http: {{listen: '127.0.0.1:{port}', tls_cert: {cert}}}\n")
        self.configure(config=str(self.dir / "saltway.yaml"))
        answer, code = self.salt_run("saltway.sites")
        self.assertEqual((len(answer), code), (4, 0))
        # Named by its address the certificate must fit the name, and it does not.
        self.configure(url=f"https://127.0.0.1:{port}", ca_file=str(cert))
        answer, code = self.salt_run("saltway.sites")
        self.assertEqual(code, 2)
        self.assertIn("certificate", answer["error"].lower())

    def test_installed_with_pip_it_needs_no_runner_dirs(self):
        target = self.dir / "site"
        pip = [SALT_BIN / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target", target, "."]
        source = self.dir / "source"
        shutil.copytree(ROOT / "salt-ext", source, ignore=shutil.ignore_patterns("tests", "build", "*.egg-info"))
        subprocess.run(pip, check=True, cwd=source)
        self.configure(runner_dirs=False, url=self.bridge.url)
        os.environ["PYTHONPATH"] = str(target)
        self.addCleanup(os.environ.pop, "PYTHONPATH")
        answer, code = self.salt_run("saltway.sites")
        self.assertEqual((answer["fra1"]["state"], code), ("up", 0))


if __name__ == "__main__":
    unittest.main()
