"""
Asks the bridge on the top master's host: one GET, one JSON answer.

- Where it is: `saltway` in the master's configuration, else `http` in the bridge's own file.
- The token goes into a header only, never into an address or an error's text.
- An answer is at most `ANSWER_BYTES_MAX` large and comes within `TIMEOUT`.
- Whatever keeps an answer away is a `CannotAsk`, which says what to do.
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

CONFIG = "/etc/salt/saltway.yaml"
LISTEN = "127.0.0.1:9464"
# The bridge gives a connection 30 seconds.
TIMEOUT = 30
# Two million ids is the bridge's own bound; more than this was not written by it.
ANSWER_BYTES_MAX = 256 << 20


class CannotAsk(Exception):
    """Why the bridge has no answer, and what to do. `status` is that of HTTP, if there was one."""

    def __init__(self, error, hint="", status=None):
        super().__init__(error)
        self.error = error
        self.hint = hint
        self.status = status


class Bridge:
    """A bridge's HTTP API, as `opts` (the master's configuration) name it."""

    def __init__(self, opts):
        given = opts.get("saltway") or {}
        if not isinstance(given, dict):
            raise CannotAsk("`saltway` in the master's configuration is no dictionary", "write saltway: {url: ...}")
        self.config = str(given.get("config", CONFIG))
        if given.get("url"):
            http_part, self.url, pinned = {}, str(given["url"]).rstrip("/"), None
            if not self.url.startswith(("http://", "https://")):
                raise CannotAsk("{} is no address of a bridge".format(self.url), "write it as http://127.0.0.1:9464")
        else:
            http_part = _http_part(self.config)
            self.url, pinned = _local_url(http_part)
        self._token = _token(given.get("token_file") or http_part.get("token_file"))
        self._tls = _tls(given.get("ca_file"), pinned) if self.url.startswith("https:") else None

    def get(self, path, **query):
        """The JSON of `/api/v1/<path>`."""
        given = {key: str(value) for key, value in query.items() if value is not None}
        text = "?" + urllib.parse.urlencode(given, quote_via=urllib.parse.quote) if given else ""
        body = self.fetch("/api/v1/" + path + text)
        try:
            answer = json.loads(body)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise CannotAsk("the bridge's answer is no JSON: " + repr(body[:80]), "does `url` name a Saltway bridge?")
        return answer

    def job_ttl(self):
        """The `job_ttl` of the bridge's own file; None where this host does not have the file."""
        try:
            return own_config(self.config).get("job_ttl")
        except CannotAsk:
            return None

    def fetch(self, path):
        """The bytes at `path`."""
        request = urllib.request.Request(self.url + path, headers={"User-Agent": "saltext.saltway"})
        if self._token:
            request.add_header("Authorization", "Bearer " + self._token)
        # The bridge is on this host, or named: no proxy of the environment is between. Redirects could carry the token elsewhere.
        handlers = [urllib.request.ProxyHandler({}), _NoRedirects()]
        if self._tls:
            handlers.append(urllib.request.HTTPSHandler(context=self._tls))
        opener = urllib.request.build_opener(*handlers)
        try:
            with opener.open(request, timeout=TIMEOUT) as reply:
                body = reply.read(ANSWER_BYTES_MAX + 1)
        except urllib.error.HTTPError as err:
            raise self._refusal(err) from None
        except (OSError, ValueError, http.client.HTTPException) as err:
            reason = getattr(err, "reason", err)
            raise CannotAsk(
                "no bridge answers at {}: {}".format(self.url, reason),
                "does saltway-bridge run there (systemctl status saltway-bridge), and is that its http.listen? The master's "
                "configuration can name another: saltway: {url: ...}",
            ) from None
        if len(body) > ANSWER_BYTES_MAX:
            raise CannotAsk("the bridge's answer is too large", "ask for less, as with `site` or `limit`")
        return body

    def _refusal(self, err):
        """What the bridge said instead of an answer."""
        try:
            said = json.loads(err.read(1 << 20))
            error, hint = str(said["error"]), str(said.get("hint", ""))
        except (OSError, ValueError, KeyError, TypeError):
            error = "{} has no Saltway API (status {})".format(self.url, err.code)
            hint = "is that a master-shim or an older bridge? `saltway: {url: ...}` in the master's configuration names another"
        if err.code in (401, 403):
            hint = "name the file with its token in the master's configuration: saltway: {token_file: ...}; " + hint
        return CannotAsk(error, hint, err.code)


def escaped(text):
    """`text` as one part of a path. A jid of digits alone comes from the command line as a number."""
    return urllib.parse.quote(str(text), safe="")


def own_config(path):
    """The bridge's own file, as far as it can be read."""
    try:
        with salt.utils.files.fopen(path, "r") as file:
            whole = salt.utils.yaml.safe_load(file) or {}
            return whole if isinstance(whole, dict) else {}
    except (OSError, salt.utils.yaml.YAMLError) as err:
        raise CannotAsk("{} cannot be read: {}".format(path, err), "saltway-bridge --check tells what is wrong with it") from None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_args, **_kwargs):
        return None


def _http_part(path):
    if path == CONFIG and not os.path.exists(path):
        raise CannotAsk(
            "there is no {} on this host".format(path), "name the bridge in the master's configuration: saltway: {url: ...}"
        )
    part = own_config(path).get("http") or {}
    return part if isinstance(part, dict) else {}


def _local_url(part):
    host, _, port = str(part.get("listen", LISTEN)).rpartition(":")
    host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
    scheme = "https" if part.get("tls_cert") else "http"
    return "{}://{}:{}".format(scheme, host, port), part.get("tls_cert")


def _tls(ca_file, pinned):
    try:
        context = ssl.create_default_context(cafile=ca_file or pinned)
    except (OSError, ssl.SSLError) as err:
        raise CannotAsk("{} cannot be read as certificates: {}".format(ca_file or pinned, err), "it must be PEM") from None
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
        raise CannotAsk("the token file {} cannot be read: {}".format(path, err), "give its group to the master's user") from None
