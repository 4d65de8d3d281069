"""Who asks, and what they may do: bearer tokens, and rules as a Role has them."""

import secrets
import threading

from . import failures

ANY = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]


class User:
    """Somebody with a token. Rules hold in the given namespaces; None: everywhere, and for what has no namespace."""

    def __init__(self, name, rules, namespaces=None, role="test"):
        self.name, self.rules, self.namespaces, self.role = name, rules, namespaces, role
        self.token = secrets.token_urlsafe(24)
        # A login that has expired, until it is renewed.
        self.is_expired = False


class Access:
    def __init__(self):
        self.lock = threading.Lock()
        self.users = {}
        self.add(User("kubernetes-admin", ANY))

    def add(self, user):
        with self.lock:
            self.users[user.name] = user
        return user

    def user_of(self, headers):
        kind, _, token = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer":
            return User("system:anonymous", [], [])
        with self.lock:
            for user in self.users.values():
                if secrets.compare_digest(user.token, token.strip()) and not user.is_expired:
                    return user
        raise failures.unauthorized()

    def may(self, user, verb, group, resource, subresource, namespace, name):
        if user.namespaces is not None and namespace not in user.namespaces:
            return False
        full = f"{resource}/{subresource}" if subresource else resource
        return any(self._covers(rule, verb, group, full, resource, subresource, name) for rule in user.rules)

    @staticmethod
    def _covers(rule, verb, group, full, resource, subresource, name):
        def has(key, *values):
            return any(value in rule.get(key, []) for value in ("*", *values))

        names = rule.get("resourceNames")
        resources = [full, *([f"*/{subresource}"] if subresource else [])]
        return has("verbs", verb) and has("apiGroups", group) and has("resources", *resources) and (not names or name in names)

    def require(self, user, verb, group, resource, subresource, namespace, name):
        if not self.may(user, verb, group, resource, subresource, namespace, name):
            raise failures.forbidden(user.name, verb, resource, subresource, group, namespace, name)

    def review(self, user, asked):
        """A SelfSubjectAccessReview, answered."""
        spec = asked.get("spec") or {}
        if attributes := spec.get("resourceAttributes"):
            get = attributes.get
            namespace, name = get("namespace", ""), get("name", "")
            allowed = self.may(
                user, get("verb", ""), get("group", ""), get("resource", ""), get("subresource", ""), namespace, name
            )
        else:
            attributes, namespace = spec.get("nonResourceAttributes") or {}, ""
            allowed = user.name != "system:anonymous"
        status = {"allowed": allowed}
        if allowed:
            status["reason"] = self._reason(user, namespace)
        answer = {"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1"}
        return {**answer, "metadata": {"managedFields": []}, "spec": spec, "status": status}

    @staticmethod
    def _reason(user, namespace):
        if user.namespaces is None:
            return f'RBAC: allowed by ClusterRoleBinding "{user.role}" of ClusterRole "{user.role}" to User "{user.name}"'
        return f'RBAC: allowed by RoleBinding "{user.role}/{namespace}" of Role "{user.role}" to User "{user.name}"'

    def rules_review(self, user, asked):
        """A SelfSubjectRulesReview, as `kubectl auth can-i --list` asks it."""
        namespace = (asked.get("spec") or {}).get("namespace", "")
        rules = user.rules if user.namespaces is None or namespace in user.namespaces else []
        others = [{"verbs": ["get"], "nonResourceURLs": ["/api", "/api/*", "/apis", "/apis/*", "/version"]}]
        answer = {"kind": "SelfSubjectRulesReview", "apiVersion": "authorization.k8s.io/v1", "metadata": {}, "spec": {}}
        return {**answer, "status": {"resourceRules": rules, "nonResourceRules": others, "incomplete": False}}

    @staticmethod
    def self_review(user):
        info = {"username": user.name, "groups": ["system:authenticated"]}
        answer = {"kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1", "metadata": {}}
        return {**answer, "status": {"userInfo": info}}
