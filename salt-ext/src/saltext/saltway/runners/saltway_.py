"""
How far each job got below a Saltway relay, and who is missing
==============================================================

Asks the bridge on the top master's host for its ledger. Plain data comes back, for people, orchestration and salt-api.

.. code-block:: bash

    salt-run saltway.jobs
    salt-run saltway.missing 20261121173800110002

``salt-run`` ends with 1 when the job asked for misses somebody, with 2 when the bridge could not be asked (the answer then
has ``error`` and ``hint``).

Where the bridge is
-------------------

Nothing needs to be configured on the bridge's own host: address, certificate and token are read from ``http`` in
``/etc/salt/saltway.yaml``. Otherwise, in the master's configuration:

.. code-block:: yaml

    saltway:
      url: https://mom.example.com:9464
      token_file: /etc/salt/saltway.token   # if the bridge wants one
      ca_file: /etc/salt/saltway-ca.pem     # https with an authority of your own
      config: /etc/salt/saltway.yaml        # another file of the bridge, instead of url

This file needs nothing but Salt and the standard library: it can also be copied into one of ``runner_dirs``.
"""

import http.client
import json
import os
import ssl
import urllib.error
import urllib.parse
import urllib.request

import salt.utils.files
import salt.utils.yaml

__virtualname__ = "saltway"

CONFIG = "/etc/salt/saltway.yaml"
LISTEN = "127.0.0.1:9464"
# The bridge gives a connection 30 seconds.
TIMEOUT = 30
# Two million ids is the bridge's own bound; more than this was not written by it.
ANSWER_BYTES_MAX = 256 << 20
MISSING = 1
CANNOT_ASK = 2


def __virtual__():
    return __virtualname__


class _CannotAsk(Exception):
    """Why the bridge has no answer, and what to do."""

    def __init__(self, error, hint=""):
        super().__init__(error)
        self.error = error
        self.hint = hint


def job(jid, verdict=None, limit=1000):
    """
    How far a job got: counts, counts per site, and each minion with its step and verdict, those first that have not returned.

    jid
        The job's id.
    verdict
        Only minions with this verdict: ``returned``, ``failed``, ``running``, ``silent``, ``not_received``, ``expired``,
        ``unreachable``, ``unmatched``.
    limit
        At most these many minions; ``truncated`` says whether there are more.

    .. code-block:: bash

        salt-run saltway.job 20261121173800110002
        salt-run saltway.job 20261121173800110002 verdict=unreachable
    """

    def ask():
        answer = _get("jobs/" + _escaped(jid), verdict=verdict, limit=limit)
        return _told(answer, answer.get("missing", 0) > 0)

    return _answered(ask)


def missing(jid):
    """
    The minions that a job misses, each with its site and verdict, and the sites that cannot be asked.

    .. code-block:: bash

        salt-run saltway.missing 20261121173800110002
    """

    def ask():
        answer = _get("jobs/" + _escaped(jid) + "/missing")
        return _told(answer, bool(answer.get("missing") or answer.get("sites_unreachable")))

    return _answered(ask)


def jobs(limit=20, state=None, before=None):
    """
    The newest jobs, by their jid: function, target, user, state, and counts in all and per site.

    limit
        How many, the newest first.
    state
        Only jobs that are ``open``, ``complete``, ``incomplete`` or ``expired``.
    before
        Only jobs older than this jid.

    .. code-block:: bash

        salt-run saltway.jobs
        salt-run saltway.jobs limit=5 state=incomplete
    """

    def ask():
        answer = _get("jobs", limit=limit, state=state, before=before)
        return {one.pop("jid"): _by_id(one, "sites") for one in answer.get("jobs", [])}

    return _answered(ask)


def sites():
    """
    The sites, by their id: up or down and since when, minions, lag, spool, losses.

    .. code-block:: bash

        salt-run saltway.sites
    """
    return _answered(lambda: {one.pop("id"): one for one in _get("sites").get("sites", [])})


def roster(site=None):
    """
    The minions of each site, as its master accepts them, with ``up``, ``down`` or ``unknown``.

    site
        Only this site.

    .. code-block:: bash

        salt-run saltway.roster
        salt-run saltway.roster site1
    """
    words = {True: "up", False: "down"}

    def ask():
        answer = _get("roster", limit=2000000, site=site)
        return {
            one["id"]: {minion["id"]: words.get(minion.get("up"), "unknown") for minion in one.get("minions", [])}
            for one in answer.get("sites", [])
        }

    return _answered(ask)


def metrics(name="saltway_"):
    """
    The bridge's metrics, by their name and labels.

    name
        How the names begin.

    .. code-block:: bash

        salt-run saltway.metrics
        salt-run saltway.metrics saltway_site_up
    """

    def ask():
        found = {}
        for line in _fetch("/metrics").decode("utf-8", "replace").splitlines():
            series, _, value = line.rpartition(" ")
            if series.startswith(name):
                found[series] = float(value)
        return found

    return _answered(ask)


def _answered(ask):
    """What `ask` returns, or why it could not be asked, as data: a traceback helps nobody."""
    try:
        return ask()
    except _CannotAsk as err:
        return _with_retcode({"error": err.error, "hint": err.hint}, CANNOT_ASK)


def _told(answer, misses):
    """The answer, with the exit code for `salt-run` where somebody is missing."""
    _by_id(answer, "sites")
    return _with_retcode(answer, MISSING) if misses else answer


def _with_retcode(answer, code):
    # The one is for `salt-run`, the other for the job's `success`, which orchestration and salt-api look at.
    answer["retcode"] = code
    __context__["retcode"] = code
    return answer


def _by_id(one, key):
    """Turns a list of things with ids into a dictionary, which Salt's outputters show better."""
    if isinstance(one.get(key), list):
        one[key] = {item.pop("id"): item for item in one[key]}
    return one


def _escaped(text):
    # A jid of digits alone comes from the command line as a number.
    return urllib.parse.quote(str(text), safe="")


def _get(path, **query):
    given = {key: str(value) for key, value in query.items() if value is not None}
    text = "?" + urllib.parse.urlencode(given, quote_via=urllib.parse.quote) if given else ""
    body = _fetch("/api/v1/" + path + text)
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise _CannotAsk("the bridge's answer is no JSON: " + repr(body[:80]), "does `url` name a Saltway bridge?")
    return answer


def _fetch(path):
    bridge = _bridge()
    request = urllib.request.Request(bridge["url"] + path, headers={"User-Agent": "saltext.saltway"})
    if bridge["token"]:
        request.add_header("Authorization", "Bearer " + bridge["token"])
    # The bridge is on this host, or named: no proxy of the environment is between. Redirects could carry the token elsewhere.
    handlers = [urllib.request.ProxyHandler({}), _NoRedirects()]
    if bridge["tls"]:
        handlers.append(urllib.request.HTTPSHandler(context=bridge["tls"]))
    opener = urllib.request.build_opener(*handlers)
    try:
        with opener.open(request, timeout=TIMEOUT) as reply:
            body = reply.read(ANSWER_BYTES_MAX + 1)
    except urllib.error.HTTPError as err:
        raise _refusal(bridge, err) from None
    except (OSError, ValueError, http.client.HTTPException) as err:
        reason = getattr(err, "reason", err)
        raise _CannotAsk(
            "no bridge answers at {}: {}".format(bridge["url"], reason),
            "does saltway-bridge run there (systemctl status saltway-bridge), and is that its http.listen? The master's "
            "configuration can name another: saltway: {url: ...}",
        ) from None
    if len(body) > ANSWER_BYTES_MAX:
        raise _CannotAsk("the bridge's answer is too large", "ask for less, as with `site` or `limit`")
    return body


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_args, **_kwargs):
        return None


def _refusal(bridge, err):
    """What the bridge said instead of an answer."""
    try:
        said = json.loads(err.read(1 << 20))
        error, hint = str(said["error"]), str(said.get("hint", ""))
    except (OSError, ValueError, KeyError, TypeError):
        error = "{} has no Saltway API (status {})".format(bridge["url"], err.code)
        hint = "is that a master-shim or an older bridge? `saltway: {url: ...}` in the master's configuration names another"
    if err.code in (401, 403):
        hint = "name the file with its token in the master's configuration: saltway: {token_file: ...}; " + hint
    return _CannotAsk(error, hint)


def _bridge():
    """Where the bridge is, the token, and how its certificate is verified."""
    given = __opts__.get("saltway") or {}
    if not isinstance(given, dict):
        raise _CannotAsk("`saltway` in the master's configuration is no dictionary", "write saltway: {url: ...}")
    if given.get("url"):
        http_part, url, pinned = {}, str(given["url"]).rstrip("/"), None
        if not url.startswith(("http://", "https://")):
            raise _CannotAsk("{} is no address of a bridge".format(url), "write it as http://127.0.0.1:9464")
    else:
        http_part = _http_part(given.get("config", CONFIG))
        url, pinned = _local_url(http_part)
    token_file = given.get("token_file") or http_part.get("token_file")
    ca_file = given.get("ca_file")
    return {"url": url, "token": _token(token_file), "tls": _tls(ca_file, pinned) if url.startswith("https:") else None}


def _http_part(path):
    if path == CONFIG and not os.path.exists(path):
        raise _CannotAsk(
            "there is no {} on this host".format(path), "name the bridge in the master's configuration: saltway: {url: ...}"
        )
    try:
        with salt.utils.files.fopen(path, "r") as file:
            part = (salt.utils.yaml.safe_load(file) or {}).get("http") or {}
            return part if isinstance(part, dict) else {}
    except (OSError, AttributeError, salt.utils.yaml.YAMLError) as err:
        raise _CannotAsk("{} cannot be read: {}".format(path, err), "saltway-bridge --check tells what is wrong with it") from None


def _local_url(part):
    host, _, port = str(part.get("listen", LISTEN)).rpartition(":")
    host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
    scheme = "https" if part.get("tls_cert") else "http"
    return "{}://{}:{}".format(scheme, host, port), part.get("tls_cert")


def _tls(ca_file, pinned):
    try:
        context = ssl.create_default_context(cafile=ca_file or pinned)
    except (OSError, ssl.SSLError) as err:
        raise _CannotAsk("{} cannot be read as certificates: {}".format(ca_file or pinned, err), "it must be PEM") from None
    if pinned and not ca_file:
        # The bridge's own certificate, from its own file, on its own host: it may name the host as others see it.
        context.check_hostname = False
        context.verify_flags |= getattr(ssl, "VERIFY_X509_PARTIAL_CHAIN", 0)
    return context


def _token(path):
    if not path:
        return None
    try:
        with salt.utils.files.fopen(path, "r") as file:
            return file.readline(4096).strip() or None
    except OSError as err:
        raise _CannotAsk("the token file {} cannot be read: {}".format(path, err), "give its group to the master's user") from None
