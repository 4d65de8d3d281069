"""The few requests that kubectl sends as Protocol Buffers, whatever it accepts as an answer: the reviews of access."""

MAGIC = b"k8s\0"
# Field numbers, from k8s.io/api/authorization/v1/generated.proto. A dict is a message of its own.
RESOURCE = {1: "namespace", 2: "verb", 3: "group", 4: "version", 5: "resource", 6: "subresource", 7: "name"}
ACCESS = {2: ("spec", {1: ("resourceAttributes", RESOURCE), 2: ("nonResourceAttributes", {1: "path", 2: "verb"})})}
KINDS = {"SelfSubjectAccessReview": ACCESS, "SelfSubjectRulesReview": {2: ("spec", {1: "namespace"})}, "SelfSubjectReview": {}}


def decode(data):
    """The object of a body that begins with MAGIC; raises ValueError for what isn't known here."""
    envelope = dict(_fields(data[len(MAGIC) :]))
    about = dict(_fields(envelope[1]))
    kind = about[2].decode()
    if kind not in KINDS:
        raise ValueError(f"a {kind} can't be read as Protocol Buffers here")
    return {"kind": kind, "apiVersion": about[1].decode(), **_message(envelope.get(2, b""), KINDS[kind])}


def _message(data, names):
    found = {}
    for number, value in _fields(data):
        name = names.get(number)
        if isinstance(name, str):
            if value:
                found[name] = value.decode()
        elif name:
            found[name[0]] = _message(value, name[1])
    return found


def _fields(data):
    at = 0
    while at < len(data):
        tag, at = _number(data, at)
        if tag & 7 == 2:
            size, at = _number(data, at)
            yield tag >> 3, data[at : at + size]
            at += size
        elif tag & 7 == 0:
            value, at = _number(data, at)
            yield tag >> 3, value
        else:
            raise ValueError(f"wire type {tag & 7}")


def _number(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at
