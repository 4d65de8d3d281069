"""Label and field selectors."""

import re

from . import failures


def labels(text):
    """A function that says whether an object's labels are as the selector has them."""
    checks = []
    for part in _split(text):
        if match := re.fullmatch(r"\s*([\w./-]+)\s+(in|notin)\s*\(([^)]*)\)\s*", part):
            key, word, values = match[1], match[2], {value.strip() for value in match[3].split(",")}
            checks.append((key, lambda v, s=values, w=word: (v in s) if w == "in" else (v not in s)))
        elif match := re.fullmatch(r"\s*([\w./-]+)\s*(==|=|!=)\s*([\w.-]*)\s*", part):
            key, word, value = match[1], match[2], match[3]
            checks.append((key, lambda v, x=value, w=word: (v != x) if w == "!=" else (v == x)))
        elif match := re.fullmatch(r"\s*(!?)\s*([\w./-]+)\s*", part):
            checks.append((match[2], lambda v, absent=bool(match[1]): (v is None) == absent))
        else:
            raise failures.bad_request(f"unable to parse requirement: {part}")

    def matches(found):
        own = found["metadata"].get("labels") or {}
        return all(check(own.get(key)) for key, check in checks)

    return matches


def _split(text):
    return [part for part in re.split(r",(?![^(]*\))", text) if part.strip()]


# What a real server knows for each resource.
FIELDS = {
    "pods": {"spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork",
             "status.phase", "status.podIP", "status.nominatedNodeName"},
    "namespaces": {"status.phase"},
    "services": {"spec.clusterIP", "spec.type"},
}  # fmt: skip


def fields(text, resource):
    checks = []
    for part in _split(text):
        match = re.fullmatch(r"\s*([\w.]+)\s*(==|=|!=)\s*(.*?)\s*", part)
        if not match:
            raise failures.bad_request(f"invalid selector: '{part}'; can't understand '{part}'")
        if match[1] not in FIELDS.get(resource, set()) | {"metadata.name", "metadata.namespace"}:
            raise failures.bad_request(f"field label not supported: {match[1]}")
        checks.append((match[1].split("."), match[2] != "!=", match[3]))

    def value(found, path):
        for name in path:
            found = (found or {}).get(name)
        return "" if found is None else str(found).lower() if isinstance(found, bool) else str(found)

    return lambda found: all((value(found, path) == wanted) == equal for path, equal, wanted in checks)


def by_map(selector):
    """Of a Service: none matches without a selector."""
    wanted = selector or {}
    return lambda found: bool(wanted) and wanted.items() <= (found["metadata"].get("labels") or {}).items()
