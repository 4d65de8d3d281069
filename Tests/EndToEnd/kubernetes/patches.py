"""The three kinds of patch that kubectl and others send."""

import copy

from . import failures

KINDS = {
    "application/json-patch+json": "json",
    "application/merge-patch+json": "merge",
    "application/strategic-merge-patch+json": "strategic",
}
# By which key the entries of a list are told apart (patchMergeKey in the types' source). Other lists are replaced whole.
MERGE_KEYS = {
    "containers": "name", "initContainers": "name", "ephemeralContainers": "name", "volumes": "name", "env": "name",
    "volumeMounts": "mountPath", "imagePullSecrets": "name", "conditions": "type", "ownerReferences": "uid",
    "hostAliases": "ip", "topologySpreadConstraints": "topologyKey",
}  # fmt: skip


def apply(kind, found, patch):
    if kind == "json":
        return _json(found, patch)
    if not isinstance(patch, dict):
        raise failures.bad_request("json: cannot unmarshal array into Go value of type map[string]interface {}")
    return _merge(found, patch) if kind == "merge" else _strategic(found, patch)


def _merge(found, patch):
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(found) if isinstance(found, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = _merge(result.get(name), value)
    return result


def _strategic(found, patch):
    if patch.get("$patch") == "replace":
        return {name: value for name, value in patch.items() if name != "$patch"}
    result = dict(found or {})
    for name, value in patch.items():
        if name.startswith("$"):
            continue
        if value is None:
            result.pop(name, None)
        elif isinstance(value, dict):
            result[name] = _strategic(result.get(name) if isinstance(result.get(name), dict) else {}, value)
        elif isinstance(value, list) and (key := _merge_key(name, value)):
            result[name] = _strategic_list(result.get(name) or [], value, key)
        else:
            result[name] = copy.deepcopy(value)
    return result


def _merge_key(name, entries):
    if name == "ports":
        # A container's and a Service's lists have the same name.
        return "containerPort" if any("containerPort" in entry for entry in entries) else "port"
    return MERGE_KEYS.get(name)


def _strategic_list(found, patch, key):
    if any(entry.get("$patch") == "replace" for entry in patch):
        return [entry for entry in patch if "$patch" not in entry]
    result, fresh = list(found), []
    for entry in patch:
        if key not in entry:
            raise failures.bad_request(f"map: {entry} does not contain declared merge key: {key}")
        at = next((index for index, old in enumerate(result) if old.get(key) == entry[key]), None)
        if entry.get("$patch") == "delete":
            if at is not None:
                del result[at]
        elif at is None:
            fresh.append(copy.deepcopy(entry))
        else:
            result[at] = _strategic(result[at], entry)
    # What the patch brings comes before what was there.
    return fresh + result


def _json(found, operations):
    result = copy.deepcopy(found)
    for operation in operations:
        try:
            path = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
            parent = result
            for part in path[:-1]:
                parent = parent[int(part) if isinstance(parent, list) else part]
            _operate(operation, parent, path[-1])
        except (KeyError, IndexError, ValueError, TypeError) as error:
            text = "the server rejected our request due to an error in our request"
            raise failures.Failure(422, "Invalid", text, {}) from error
    return result


def _operate(operation, parent, last):
    what, value = operation["op"], operation.get("value")
    if what == "test":
        if parent[int(last) if isinstance(parent, list) else last] != value:
            raise ValueError("test failed")
    elif isinstance(parent, list):
        if what == "add":
            parent.insert(len(parent) if last == "-" else int(last), value)
        elif what == "replace":
            parent[int(last)] = value
        elif what == "remove":
            del parent[int(last)]
        else:
            raise ValueError(what)
    elif what == "remove":
        del parent[last]
    elif what in ("add", "replace"):
        if what == "replace" and last not in parent:
            raise KeyError(last)
        parent[last] = value
    else:
        raise ValueError(what)
