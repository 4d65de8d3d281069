#!/usr/bin/env python3
"""What Debian's nft sends to the kernel for the sidecar's rules, as Tests/DiversionTests compares its own with it.

    nft_messages.py                prints Swift
    nft_messages.py --write FILE   writes it there: Tests/DiversionTests/RecordedMessages.swift

Needs root, nftables, strace and util-linux. nft works in a network namespace of its own, and strace shows what it sends.

Two things are left out, since they mean nothing to the kernel: NFTA_SET_USERDATA, in which nft notes for itself how it
printed a set, and NFTA_BITWISE_OP where it is 0, which is what the kernel takes without it.
"""

import argparse
import re
import shlex
import struct
import subprocess
import sys
import tempfile

TABLE = "kl_0123456789abcdef"

CREATE = f"""
table inet {TABLE} {{ flags owner; }}
delete table inet {TABLE}
table inet {TABLE} {{
    flags owner
    set live {{ type inet_service; flags timeout; timeout 10s; }}
    map listeners {{ type inet_service : inet_service; elements = {{ 8080 : 40001, 9090 : 40002 }}; }}
    set live_udp {{ type inet_service; flags timeout; timeout 10s; }}
    map listeners_udp {{ type inet_service : inet_service; elements = {{ 53 : 40003, 123 : 40004 }}; }}
    chain divert {{
        meta mark 0x206c return
        fib daddr type != local return
        tcp flags & (fin|syn|rst|ack) == syn tcp dport @live dnat to :tcp dport map @listeners
        udp dport @live_udp dnat to :udp dport map @listeners_udp
    }}
    chain prerouting {{
        type nat hook prerouting priority -95; policy accept;
        iifname != "lo" jump divert
    }}
    chain output {{
        type nat hook output priority -105; policy accept;
        ip daddr 127.0.0.0/8 return
        ip6 daddr ::1 return
        jump divert
    }}
    chain tracked {{
        type filter hook input priority 0; policy accept;
        udp dport {{ 40003, 40004 }} ct status dnat accept
        udp dport {{ 40003, 40004 }} drop
        ct state established accept
    }}
}}
add element inet {TABLE} live {{ 8080, 9090 }}
add element inet {TABLE} live_udp {{ 53 }}
"""

ANSWERS = f"""
table inet {TABLE} {{
    flags owner
    chain own {{
        type filter hook output priority -310; policy accept;
        ip6 saddr fe80::/16 return
        meta mark 0x206c ct original zone set 8300
    }}
    chain answers {{
        type route hook output priority 290; policy accept;
        ct direction reply ct original zone 8300 meta mark set 0x2068
    }}
}}
"""

REJECT = f"""
table inet {TABLE} {{
    flags owner
    chain ending {{
        type filter hook input priority 0; policy accept;
        ip daddr 127.0.0.0/8 return
        ip6 daddr ::1 return
        meta mark 0x206c return
        tcp dport @live tcp dport {{ 8080, 9090 }} tcp flags & (syn|rst) == 0 reject with tcp reset
    }}
}}
"""

RENEW = f"""
flush set inet {TABLE} live
flush set inet {TABLE} live_udp
add element inet {TABLE} live {{ 8080 }}
"""

PARTS = {
    "create": CREATE,
    "answers": ANSWERS,
    "rejectOriginals": REJECT,
    "renew": RENEW,
    "keepOriginals": f"delete chain inet {TABLE} ending\n",
    "delete": f"delete table inet {TABLE}\n",
}

RULE = "pref 7 fwmark 0x2068/0xffffffff lookup 1802240291 protocol 107".split()
ROUTE = "local default dev lo table 1802240291 protocol 107".split()
ROUTING = {
    f"{what}{version}": ["ip", f"-{version}", *words]
    for version in (4, 6)
    for what, words in {
        "addRule": ["rule", "add", *RULE],
        "addRoute": ["route", "add", *ROUTE],
        "deleteRule": ["rule", "del", *RULE],
        "deleteRoute": ["route", "del", *ROUTE],
    }.items()
}

NESTED, SUBSYSTEM = 0x8000, 10
NEWRULE, NEWSET = 6, 9
# RTM_NEWROUTE, RTM_DELROUTE, RTM_NEWRULE and RTM_DELRULE.
ROUTING_TYPES = (24, 25, 32, 33)
SET_USERDATA, RULE_EXPRESSIONS, EXPRESSION_NAME, EXPRESSION_DATA, BITWISE_OP = 13, 4, 1, 2, 6


def attributes(content):
    while content:
        length, kind = struct.unpack("=HH", content[:4])
        yield kind, content[4:length]
        content = content[(length + 3) & ~3 :]


def attribute(kind, value):
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def expression(content):
    fields = dict(attributes(content))
    if fields[EXPRESSION_NAME] != b"bitwise\0":
        return content
    body = b"".join(
        attribute(kind, value)
        for kind, value in attributes(fields[EXPRESSION_DATA | NESTED])
        if (kind, value) != (BITWISE_OP, bytes(4))
    )
    return attribute(EXPRESSION_NAME, b"bitwise\0") + attribute(EXPRESSION_DATA | NESTED, body)


def meant(kind, content):
    """Without what means nothing to the kernel."""
    result = b""
    for name, value in attributes(content):
        if kind == NEWSET and name == SET_USERDATA:
            continue
        if kind == NEWRULE and name == RULE_EXPRESSIONS | NESTED:
            value = b"".join(attribute(element, expression(one)) for element, one in attributes(value))
        result += attribute(name, value)
    return result


def sent_by(*command, before=()):
    """What a command sends by netlink, in a network namespace of its own."""
    traced = ["strace", "-e", "trace=sendmsg", "-e", "write=all", "-e", "signal=none", *command]
    script = "; ".join(shlex.join(one) for one in [*before, traced])
    done = subprocess.run(["unshare", "--net", "sh", "-ec", script], capture_output=True, text=True, check=True)
    # ` | 00010  14 00 00 00 …  …   ................ |`
    lines = [line for line in done.stderr.splitlines() if re.match(r"^ \| [0-9a-f]{5,} ", line)]
    return bytes.fromhex("".join(line.split(None, 2)[2][:50] for line in lines))


def sent(text):
    """The bytes of nft's transaction."""
    with tempfile.NamedTemporaryFile("w", suffix=".nft") as file:
        file.write(text)
        file.flush()
        return sent_by("nft", "-f", file.name)


def routing(name):
    """Type, flags, and the rest behind the header, of what ip sends."""
    command = ROUTING[name]
    before = [["ip", "link", "set", "lo", "up"]]
    if name.startswith("delete"):
        before.append(ROUTING[name.replace("delete", "add")])
    content, result = sent_by(*command, before=before), []
    while content:
        length, kind, flags = struct.unpack("=IHH", content[:8])
        # Neither a question about a device.
        if kind in ROUTING_TYPES:
            result.append((kind, flags, content[16:length]))
        content = content[(length + 3) & ~3 :]
    return result


def messages(text):
    content, result = sent(text), []
    while content:
        length, kind, flags, _, _ = struct.unpack("=IHHII", content[:16])
        if kind >> 8 == SUBSYSTEM:
            body = content[20:length]
            result.append((kind & 0xFF, flags, meant(kind & 0xFF, body)))
        content = content[(length + 3) & ~3 :]
    return result


def array(name, recorded):
    lines = [f"    static let {name}: [(type: UInt32, flags: UInt16, attributes: String)] = ["]
    for kind, flags, body in recorded:
        words = body.hex()
        pieces = [words[at : at + 96] for at in range(0, len(words), 96)]
        lines += ["        (", f"            {kind}, {flags:#06x},"]
        for index, piece in enumerate(pieces):
            lines.append(f'            {"" if index == 0 else "    + "}"{piece}"')
        lines.append("        )," if len(recorded) > 1 else "        )")
    return [*lines, "    ]"]


def swift():
    version = subprocess.run(["nft", "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    ip = subprocess.run(["ip", "-V"], capture_output=True, text=True, check=True).stdout.split("iproute2-")[1].split(",")[0]
    lines = [
        f"/// What nft {version} sends for the same rules, and ip of iproute2 {ip} for the same routing: of each message type,",
        "/// flags and attributes. Written by Tests/EndToEnd/nft_messages.py, which says what is left out.",
        "enum RecordedMessages {",
    ]
    before = ""
    # One after the other, since each needs what those before have made.
    for name, text in PARTS.items():
        known = len(messages(before)) if before else 0
        before += text
        lines += [""] if known else []
        lines += array(name, messages(before)[known:])
    for name in ROUTING:
        lines += ["", *array(name, routing(name))]
    return "\n".join([*lines, "}"]) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", metavar="FILE")
    chosen = parser.parse_args()
    text = swift()
    if chosen.write is None:
        sys.stdout.write(text)
        return
    with open(chosen.write, "w") as file:
        file.write(text)


if __name__ == "__main__":
    main()
