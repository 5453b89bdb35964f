"""Records every event of a master's bus, and publishes jobs, for tests and benches.

    python record_events.py CONF_DIR

Standard output is JSON lines: {"ready": true} once it is connected, then one line per event: {"at": <unix time of receipt>, "tag": ..,
"data": ..}. Bytes become {"bytes": "<base64>"}; a map key that is no text becomes its repr.

Each line of standard input is a job to publish, {"n": 1, "tgt": "*", "tgt_type": "glob", "fun": "test.ping", "arg": []}, answered by
{"n": 1, "published": "<jid>" or null, "began": <unix time>, "ended": <unix time>}, with "refused": "<why>" where Salt's client gave up. The
end of standard input ends the program.

Both survive a restart of the master: the client is made anew after each failure (its root key is then another one), the connection to the
bus when the socket's file is another one.
"""

import base64
import json
import os
import sys
import threading
import time

import salt.client
import salt.config
import salt.utils.event

OUTPUT = threading.Lock()


def plain(value):
    """The value with nothing in it that JSON lacks."""
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, dict):
        return {key if isinstance(key, str) else repr(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return repr(value)


def emit(document):
    with OUTPUT:
        sys.stdout.write(json.dumps(plain(document)) + "\n")
        sys.stdout.flush()


def publish_all(conf_file):
    """Publishes what standard input asks for, until it ends."""
    client = None
    for line in sys.stdin:
        job = json.loads(line)
        answer = {"n": job["n"], "published": None, "began": time.time()}
        try:
            client = client or salt.client.LocalClient(conf_file)
            published = client.run_job(
                job["tgt"], job["fun"], arg=job.get("arg", []), tgt_type=job.get("tgt_type", "glob"), listen=False
            )
            answer["published"] = (published or {}).get("jid")
        except Exception as err:  # pylint: disable=broad-except
            client = None
            answer["refused"] = f"{type(err).__name__}: {err}"
        answer["ended"] = time.time()
        emit(answer)
    os._exit(0)


def connect(opts):
    """A connection to the event bus, and the file that it goes through."""
    while True:
        bus = salt.utils.event.get_master_event(opts, opts["sock_dir"], listen=True)
        if bus.connect_pub(timeout=5):
            return bus, bus_file(opts)
        bus.destroy()
        time.sleep(0.1)


def bus_file(opts):
    """What tells one run of the master from the next."""
    try:
        return os.stat(os.path.join(opts["sock_dir"], "master_event_pub.ipc")).st_ino
    except FileNotFoundError:
        return None


def main():
    conf_file = os.path.join(sys.argv[1], "master")
    opts = salt.config.client_config(conf_file)
    bus, file = connect(opts)
    emit({"ready": True})
    threading.Thread(target=publish_all, args=(conf_file,), daemon=True).start()
    while True:
        try:
            event = bus.get_event(wait=1, full=True)
        except Exception as err:  # pylint: disable=broad-except
            print(f"the event bus is gone: {err!r}", file=sys.stderr)
            event = None
            time.sleep(0.1)
        if event is not None:
            emit({"at": time.time(), "tag": event["tag"], "data": event["data"]})
        elif bus_file(opts) not in (None, file):
            bus.destroy()
            bus, file = connect(opts)


if __name__ == "__main__":
    main()
