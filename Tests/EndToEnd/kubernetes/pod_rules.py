"""What a server refuses of pods and their ephemeral containers: validation, and Pod Security by the namespace's label."""

import re

from . import failures

NAME = re.compile("[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
# Fields of a container that an ephemeral one may not have (pkg/apis/core/validation).
NOT_EPHEMERAL = [
    "ports",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
    "resources",
    "resizePolicy",
    "restartPolicy",
]
BASELINE_CAPABILITIES = {
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP",
    "SETUID", "SYS_CHROOT",
}  # fmt: skip
LABEL = "pod-security.kubernetes.io/enforce"


def check_ephemeral(before, after):
    """Of a change of the ephemeral containers; raises 422."""
    kept = {entry["name"]: entry for entry in after["spec"].get("ephemeralContainers") or []}
    causes = []
    for old in before["spec"].get("ephemeralContainers") or []:
        if old["name"] not in kept:
            text = f'Forbidden: existing ephemeral containers "{old["name"]}" may not be removed\n'
            causes.append(("spec.ephemeralContainers", "FieldValueForbidden", text))
        elif kept[old["name"]] != old:
            text = f'Forbidden: existing ephemeral containers "{old["name"]}" may not be changed\n'
            causes.append(("spec.ephemeralContainers", "FieldValueForbidden", text))
    others = {container["name"] for container in after["spec"]["containers"] + (after["spec"].get("initContainers") or [])}
    seen = set(others)
    for index, entry in enumerate(after["spec"].get("ephemeralContainers") or []):
        field = f"spec.ephemeralContainers[{index}]"
        name = entry.get("name", "")
        if name and not NAME.fullmatch(name):
            text = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an "
            text += "alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            causes.append((f"{field}.name", "FieldValueInvalid", f'Invalid value: "{name}": {text}'))
        if not name:
            causes.append((f"{field}.name", "FieldValueRequired", "Required value"))
        elif name in seen:
            causes.append((f"{field}.name", "FieldValueDuplicate", f'Duplicate value: "{name}"'))
        seen.add(name)
        if not entry.get("image"):
            causes.append((f"{field}.image", "FieldValueRequired", "Required value"))
        for forbidden in NOT_EPHEMERAL:
            if entry.get(forbidden):
                text = "Forbidden: cannot be set for an Ephemeral Container"
                causes.append((f"{field}.{forbidden}", "FieldValueForbidden", text))
        target = entry.get("targetContainerName")
        if target and target not in others:
            causes.append((f"{field}.targetContainerName", "FieldValueNotFound", f'Not found: "{target}"'))
    if causes:
        raise failures.invalid("Pod", before["metadata"]["name"], causes)


def with_defaults(container):
    """What the server writes into an entry that doesn't say it."""
    usual = "Always" if container.get("image", "").rpartition("/")[2].partition(":")[2] in ("", "latest") else "IfNotPresent"
    container.setdefault("resources", {})
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    container.setdefault("imagePullPolicy", usual)
    for port in container.get("ports", []):
        port.setdefault("protocol", "TCP")
    return container


def check_security(pod, namespace):
    """Raises 403 where the namespace's level refuses the pod."""
    labels = namespace["metadata"].get("labels") or {}
    level, version = labels.get(LABEL, "privileged"), labels.get(LABEL + "-version", "latest")
    found = [] if level == "privileged" else _violations(pod["spec"], level == "restricted")
    if found:
        why = f'violates PodSecurity "{level}:{version}": ' + ", ".join(f"{what} ({text})" for what, text in found)
        raise failures.refused("pods", pod["metadata"]["name"], why)


def _violations(spec, restricted):
    """(What is wrong, where), in the order in which a real server lists them: by the check's name."""
    containers = [c for key in ("initContainers", "containers", "ephemeralContainers") for c in spec.get(key) or []]
    own = spec.get("securityContext") or {}

    def of(container):
        return container.get("securityContext") or {}

    found = []
    if spec.get("hostNetwork"):
        found.append(("host namespaces", "hostNetwork=true"))
    if bad := [c for c in containers if of(c).get("privileged")]:
        found.append(("privileged", f"{_names(bad)} must not set securityContext.privileged=true"))
    if not restricted:
        allowed = BASELINE_CAPABILITIES
        bad = [(c, a) for c in containers if (a := [x for x in _added(of(c)) if x not in allowed])]
        if bad:
            which = _quoted({name for _, added in bad for name in added})
            text = f"{_names([c for c, _ in bad])} must not include {which} in securityContext.capabilities.add"
            found.append(("non-default capabilities", text))
        return found
    if bad := [c for c in containers if of(c).get("allowPrivilegeEscalation") is not False]:
        text = f"{_names(bad)} must set securityContext.allowPrivilegeEscalation=false"
        found.append(("allowPrivilegeEscalation != false", text))
    parts = []
    if bad := [c for c in containers if "ALL" not in (of(c).get("capabilities") or {}).get("drop", [])]:
        parts.append(f'{_names(bad)} must set securityContext.capabilities.drop=["ALL"]')
    if bad := [(c, a) for c in containers if (a := [x for x in _added(of(c)) if x != "NET_BIND_SERVICE"])]:
        which = _quoted({name for _, added in bad for name in added})
        parts.append(f"{_names([c for c, _ in bad])} must not include {which} in securityContext.capabilities.add")
    if parts:
        found.append(("unrestricted capabilities", "; ".join(parts)))
    if explicit := [c for c in containers if of(c).get("runAsNonRoot") is False]:
        found.append(("runAsNonRoot != true", f"{_names(explicit)} must not set securityContext.runAsNonRoot=false"))
    elif not own.get("runAsNonRoot") and (bad := [c for c in containers if of(c).get("runAsNonRoot") is None]):
        found.append(("runAsNonRoot != true", f"pod or {_names(bad)} must set securityContext.runAsNonRoot=true"))
    if bad := [c for c in containers if of(c).get("runAsUser") == 0]:
        found.append(("runAsUser=0", f"{_names(bad)} must not set runAsUser=0"))
    types = ("RuntimeDefault", "Localhost")
    if (own.get("seccompProfile") or {}).get("type") not in types:
        if bad := [c for c in containers if (of(c).get("seccompProfile") or {}).get("type") not in types]:
            text = f'pod or {_names(bad)} must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost"'
            found.append(("seccompProfile", text))
    return found


def _added(context):
    return (context.get("capabilities") or {}).get("add") or []


def _quoted(names):
    return ", ".join(f'"{name}"' for name in sorted(names))


def _names(containers):
    return ("container " if len(containers) == 1 else "containers ") + ", ".join(f'"{c["name"]}"' for c in containers)
