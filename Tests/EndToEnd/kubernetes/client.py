"""A client of any API server, by a kubeconfig: what tests use to make objects and to look at them."""

import base64
import http.client
import json
import pathlib
import ssl
import tempfile
import urllib.parse

import yaml

from harness.waiting import NotSeen

KINDS = {
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "json": "application/json-patch+json",
}


class Client:
    def __init__(self, kubeconfig, context=None):
        found = yaml.safe_load(pathlib.Path(kubeconfig).read_text())

        def named(kind, key, name):
            return next(entry[key] for entry in found[kind] if entry["name"] == name)

        self.context = context or found["current-context"]
        place = named("contexts", "context", self.context)
        cluster, user = named("clusters", "cluster", place["cluster"]), named("users", "user", place["user"])
        self.server = cluster["server"].rstrip("/")
        self._token = user.get("token")
        with tempfile.TemporaryDirectory() as folder:
            authority = self._file(cluster, "certificate-authority", folder, kubeconfig)
            self._tls = ssl.create_default_context(cafile=authority)
            if certificate := self._file(user, "client-certificate", folder, kubeconfig):
                self._tls.load_cert_chain(certificate, self._file(user, "client-key", folder, kubeconfig))
        if not self._token and not certificate:
            raise NotSeen(f"{kubeconfig}: tests need a user with a token or a client certificate")

    @staticmethod
    def _file(entry, key, folder, kubeconfig):
        if data := entry.get(f"{key}-data"):
            path = pathlib.Path(folder) / key
            path.write_bytes(base64.b64decode(data))
            return path
        return pathlib.Path(kubeconfig).parent / entry[key] if key in entry else None

    def ask(self, method, path, body=None, kind="application/json", **query):
        """The answer's code, and its object."""
        parts = urllib.parse.urlsplit(self.server)
        connection = http.client.HTTPSConnection(parts.hostname, parts.port or 443, timeout=60, context=self._tls)
        try:
            headers = {"Content-Type": kind, "Accept": "application/json"}
            if self._token:
                headers["Authorization"] = f"Bearer {self._token}"
            if query:
                path += "?" + urllib.parse.urlencode(query)
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            data = answer.read()
            return answer.status, json.loads(data) if "json" in answer.headers.get("Content-Type", "") else data.decode()
        finally:
            connection.close()

    def ok(self, method, path, *arguments, **options):
        code, found = self.ask(method, path, *arguments, **options)
        if code >= 300:
            raise NotSeen(f"{method} {path}: {code} {found.get('message') if isinstance(found, dict) else found}")
        return found

    def get(self, path, **query):
        return self.ok("GET", path, **query)

    def find(self, path):
        """None where there is none."""
        code, found = self.ask("GET", path)
        return found if code == 200 else None

    def create(self, path, found):
        return self.ok("POST", path, found)

    def patch(self, path, patch, kind="merge", **query):
        return self.ok("PATCH", path, patch, KINDS[kind], **query)

    def delete(self, path, **query):
        code, found = self.ask("DELETE", path, **query)
        if code not in (200, 202, 404):
            raise NotSeen(f"DELETE {path}: {code} {found}")
