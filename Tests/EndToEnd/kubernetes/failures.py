"""The failures of an API server: objects of kind Status, with the texts that a real one gives."""


class Failure(Exception):
    """An answer that isn't a success."""

    def __init__(self, code, reason, message, details=None, headers=()):
        super().__init__(message)
        self.code, self.reason, self.message, self.details, self.headers = code, reason, message, details, dict(headers)

    @property
    def status(self):
        found = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": self.message}
        if self.reason:
            found["reason"] = self.reason
        if self.details is not None:
            found["details"] = self.details
        return {**found, "code": self.code}


def _named(resource, name, group=""):
    return f'{resource}{"." + group if group else ""} "{name}"'


def _details(name, kind, group="", **more):
    found = {"name": name} if name else {}
    if group:
        found["group"] = group
    return {**found, "kind": kind, **more}


def unauthorized():
    return Failure(401, "Unauthorized", "Unauthorized")


def forbidden(user, verb, resource, subresource, group, namespace, name):
    where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
    full = f"{resource}/{subresource}" if subresource else resource
    why = f'User "{user}" cannot {verb} resource "{full}" in API group "{group}" {where}'
    subject = _named(resource, name, group) if name else f"{resource}{'.' + group if group else ''}"
    return Failure(403, "Forbidden", f"{subject} is forbidden: {why}", _details(name, resource, group))


def forbidden_path(user, verb, path):
    return Failure(403, "Forbidden", f'forbidden: User "{user}" cannot {verb} path "{path}"', {})


def refused(resource, name, why):
    """By an admission plug-in."""
    return Failure(403, "Forbidden", f"{_named(resource, name)} is forbidden: {why}", _details(name, resource))


def not_found(resource, name, group=""):
    return Failure(404, "NotFound", f"{_named(resource, name, group)} not found", _details(name, resource, group))


def no_such_path():
    return Failure(404, "NotFound", "the server could not find the requested resource", {})


def exists(resource, name, group=""):
    return Failure(409, "AlreadyExists", f"{_named(resource, name, group)} already exists", _details(name, resource, group))


def conflict(resource, name, group=""):
    why = "the object has been modified; please apply your changes to the latest version and try again"
    text = f"Operation cannot be fulfilled on {_named(resource, name, group)}: {why}"
    return Failure(409, "Conflict", text, _details(name, resource, group))


def invalid(kind, name, causes, group=""):
    """Causes: (field, what kind of mistake, text)."""
    texts = [f"{field}: {text}" for field, _, text in causes]
    text = texts[0] if len(texts) == 1 else "[" + ", ".join(texts) + "]"
    listed = [{"reason": reason, "message": text, "field": field} for field, reason, text in causes]
    full = f"{kind}.{group}" if group else kind
    return Failure(422, "Invalid", f'{full} "{name}" is invalid: {text}', _details(name, kind, group, causes=listed))


def bad_request(message):
    return Failure(400, "BadRequest", message)


def expired(asked, oldest):
    return Failure(410, "Expired", f"too old resource version: {asked} ({oldest})")


def expired_continue():
    text = (
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without "
        "the continue parameter, or use the continue token in this response to retrieve the remainder of the results."
    )
    return Failure(410, "Expired", text)


def too_large_version(asked, current):
    details = {
        "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
        "retryAfterSeconds": 1,
    }
    text = f"Timeout: Too large resource version: {asked}, current: {current}"
    return Failure(504, "Timeout", text, details, {"Retry-After": "1"})


def invalid_version(asked):
    text = f'resourceVersion: Invalid value: "{asked}": strconv.ParseUint: parsing "{asked}": invalid syntax'
    return Failure(500, "", text)


def unsupported_media_type():
    return Failure(415, "UnsupportedMediaType", "415: Unsupported Media Type", {})


class PlainFailure(Failure):
    """A failure whose body is text: a kubelet's own, passed on, or one of nobody's."""

    def __init__(self, code, text):
        super().__init__(code, "", text)


def internal(message):
    return Failure(500, "InternalError", f"Internal error occurred: {message}", {"causes": [{"message": message}]})


def method_not_allowed():
    return Failure(405, "MethodNotAllowed", "the server does not allow this method on the requested resource", {})
