"""
What is kept of roll-outs on disk: `<cachedir>/saltway/rollouts/<id>.json`, and beside it what somebody asked of it and its lock.

- A file is replaced whole (write, sync, rename): a kill leaves the one before or the one after.
- `<id>.json` is written by the process that drives the roll-out and nobody else: it holds `<id>.lock` as long as it lives, and
  the kernel gives that back however it ends.
- `<id>.wanted` is written by whoever asks for a pause or a stop, and read by the driver.
"""

import contextlib
import fcntl
import json
import os
import re
import time

FORMAT = 1
# The files of the oldest that are over go when there are more.
KEPT_MAX = 200
ID = re.compile(r"\d{14,26}")


class NoSuch(Exception):
    """No such roll-out, or a file that is none."""


class Busy(Exception):
    """Another process drives it."""


class Rollouts:
    """The directory."""

    def __init__(self, cachedir):
        self.dir = os.path.join(cachedir, "saltway", "rollouts")

    def save(self, state):
        """Writes the whole of `state`; it is there after a kill or a power cut."""
        os.makedirs(self.dir, mode=0o700, exist_ok=True)
        self._write(self._path(state["id"], "json"), json.dumps(dict(state, v=FORMAT, at=time.time())))

    def load(self, rid):
        """The state of `rid`."""
        path = self._path(rid, "json")
        try:
            with open(path, encoding="utf-8") as file:
                state = json.load(file)
        except FileNotFoundError:
            raise NoSuch("there is no roll-out {}; salt-run saltway.rollouts lists them".format(rid)) from None
        except (OSError, ValueError) as err:
            raise NoSuch("{} cannot be read: {}".format(path, err)) from None
        if not isinstance(state, dict) or state.get("v") != FORMAT:
            raise NoSuch("{} is of another version of this extension".format(path))
        return state

    def ids(self):
        """All of them, the newest first."""
        try:
            names = os.listdir(self.dir)
        except FileNotFoundError:
            return []
        ids = (name[: -len(".json")] for name in names if name.endswith(".json"))
        return sorted((rid for rid in ids if ID.fullmatch(rid)), reverse=True)

    def forget_oldest(self, is_over):
        """Removes the files of the oldest that `is_over(state)`, beyond `KEPT_MAX`."""
        for rid in self.ids()[KEPT_MAX:]:
            with contextlib.suppress(NoSuch, OSError):
                if is_over(self.load(rid)):
                    for kind in ("wanted", "lock", "json"):
                        with contextlib.suppress(FileNotFoundError):
                            os.unlink(self._path(rid, kind))

    def want(self, rid, what):
        """Asks the driver of `rid` for `what`: `pause`, `continue` or `stop`."""
        self._write(self._path(rid, "wanted"), what)

    def wanted(self, rid):
        """What was asked for last and not answered yet, or None."""
        with contextlib.suppress(OSError):
            with open(self._path(rid, "wanted"), encoding="utf-8") as file:
                return file.read(32).strip() or None
        return None

    def answered(self, rid):
        """Forgets what was asked for."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(rid, "wanted"))

    @contextlib.contextmanager
    def driving(self, rid):
        """Holds the lock of `rid`; `Busy` if another process does."""
        os.makedirs(self.dir, mode=0o700, exist_ok=True)
        with open(self._path(rid, "lock"), "a", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise Busy("another process drives roll-out {}".format(rid)) from None
            yield

    def is_driven(self, rid):
        """Whether a process drives `rid` now."""
        try:
            with self.driving(rid):
                return False
        except Busy:
            return True

    def _path(self, rid, kind):
        rid = str(rid)
        if not ID.fullmatch(rid):
            raise NoSuch("{} is no id of a roll-out; salt-run saltway.rollouts lists them".format(rid))
        return os.path.join(self.dir, "{}.{}".format(rid, kind))

    @staticmethod
    def _write(path, text):
        new = "{}.new-{}".format(path, os.getpid())
        with open(new, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
        directory = os.open(os.path.dirname(path), os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
