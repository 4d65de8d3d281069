"""The network of a node: pods hang on its bridge, and the test's own network reaches them by one cable."""

import itertools
import os
import random
import socket
import subprocess
import threading

from harness.machine import Machine
from harness.networks import network_of
from harness.waiting import NotSeen

from . import grpc

# 10.114.N.0/24 is a cluster's: pods in the lower half, then the cable, then the addresses of Services.
NET = "10.114"
PROBE = "GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: kube-probe/1.36\r\nAccept: */*\r\nConnection: close\r\n\r\n"
_numbers = itertools.count(random.randrange(1 << 30))


def _ip(*arguments, check=True):
    done = subprocess.run(["ip", *map(str, arguments)], capture_output=True, text=True, timeout=30)
    if check and done.returncode:
        raise NotSeen(f"ip {' '.join(map(str, arguments))}: {done.stderr}")
    return done.returncode == 0


class NodeNetwork:
    """A machine with a bridge. What is made of it in this network goes away with it."""

    def __init__(self):
        self.machine = Machine()
        try:
            self._cable()
            self._bridge()
        except BaseException:
            self.machine.close()
            raise
        self.gateway = f"{NET}.{self.number}.1"
        self._lock = threading.Lock()
        self._pods = itertools.count(2)
        self._services = itertools.count(160)
        self._devices = itertools.count(1)

    def _cable(self):
        for number in (n % 250 + 1 for n in itertools.islice(_numbers, 250)):
            device = f"kl-node{number}"
            if _ip("link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", self.machine.pid, check=False):
                break
        else:
            raise NotSeen("no network is free for a cluster")
        self.number, self.device = number, device
        self.address = f"{NET}.{number}.130"
        _ip("address", "add", f"{NET}.{number}.129/30", "dev", device)
        _ip("link", "set", device, "up")
        self.machine.run("ip", "address", "add", f"{self.address}/30", "dev", "eth0")
        self.machine.run("ip", "link", "set", "eth0", "up")
        self.machine.run("ip", "route", "add", "default", "via", f"{NET}.{number}.129")
        self.open_way()

    def _bridge(self):
        self.machine.run(
            "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0"
        )
        self.machine.run("ip", "link", "add", "cni0", "type", "bridge")
        self.machine.run("ip", "address", "add", f"{NET}.{self.number}.1/25", "dev", "cni0")
        self.machine.run("ip", "link", "set", "cni0", "up")

    def open_way(self):
        """From the test's network to the pods' addresses."""
        _ip("route", "replace", f"{NET}.{self.number}.0/25", "via", self.address, "dev", self.device)

    def close_way(self):
        """Pods can't be reached by their addresses any more: only through the API server."""
        _ip("route", "delete", f"{NET}.{self.number}.0/25", check=False)

    def lead_in(self, ways):
        """From (address, port) here to a pod's (address, port), for (transport): of the test's network."""
        rules = [f"ip daddr {to} {transport} dport {port} dnat ip to {pod}:{own}" for to, port, transport, pod, own in ways]
        chain = "".join(f"  {rule}\n" for rule in rules)
        head = "table ip ways {}\ndelete table ip ways\ntable ip ways {\nchain in { type nat hook prerouting priority -100;\n"
        self.machine.run("nft", "-f", "-", input=f"{head}{chain}}}\n}}\n")
        for address in {to for to, *_ in ways} - {self.address}:
            _ip("route", "replace", f"{address}/32", "via", self.address, "dev", self.device)

    def service_address(self):
        with self._lock:
            return f"{NET}.{self.number}.{next(self._services)}"

    def plug_in(self, sandbox):
        """Gives a pod's machine an address, each time a new one."""
        with self._lock:
            address = f"{NET}.{self.number}.{next(self._pods) % 126 or 2}"
            device = f"veth{next(self._devices)}"
        self.machine.run("ip", "link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", sandbox.pid)
        self.machine.run("sh", "-c", f"ip link set {device} master cni0 && ip link set {device} up")
        script = f"ip address add {address}/25 dev eth0 && ip link set eth0 up && ip route add default via {self.gateway}"
        sandbox.run("sh", "-c", script)
        return address

    def close(self):
        self.close_way()
        self.machine.close()


def is_answered(machine, kind, host, port, path="/"):
    """A probe of the kubelet, from the node's network."""
    try:
        with network_of(machine):
            connection = socket.create_connection((host, int(port)), timeout=1)
        with connection:
            if kind == "tcp":
                return True
            if kind == "grpc":
                return grpc.check(connection, f"{host}:{port}")
            connection.sendall(PROBE.format(path=path, host=host, port=port).encode())
            head = connection.recv(64).split()
            return len(head) > 1 and 200 <= int(head[1]) < 400
    except (OSError, ValueError):
        return False


def variables(name):
    """What a container's programs have of the environment."""
    kept = {key: value for key, value in os.environ.items() if key in ("LANG", "LC_ALL", "PYTHONHASHSEED")}
    return {**kept, "PATH": os.environ["PATH"], "HOSTNAME": name, "HOME": "/root"}
