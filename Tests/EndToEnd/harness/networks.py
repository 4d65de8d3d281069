"""Hosts behind one router, each in a network of its own, and a pair of agents between two of them."""

import contextlib
import ctypes
import os
import socket
import struct

from .agents import endpoint
from .machine import Machine
from .pair import Pair
from .ports import address

CLONE_NEWNET = 0x4000_0000
TUNNEL = 51_820
# From linux/netfilter/nfnetlink.h, nfnetlink_conntrack.h and netlink.h.
NETLINK_NETFILTER, CTNETLINK, DELETE, REQUEST_AND_ACK, ERROR = 12, 1, 2, 5, 2
_libc = ctypes.CDLL(None, use_errno=True)


def _enter(network):
    if _libc.setns(network.fileno(), CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "this thread can't enter a network namespace")


@contextlib.contextmanager
def network_of(machine):
    """Sockets that this thread opens, and programs and threads that it starts, are in that machine's network."""
    with open("/proc/thread-self/ns/net") as own, open(f"/proc/{machine.pid}/ns/net") as its:
        _enter(its)
        try:
            yield
        finally:
            _enter(own)


class Host(Machine):
    """A machine whose only cable leads to the router: a network of 254 addresses, of which the router has the first."""

    def __init__(self, router, name, number):
        super().__init__()
        self.router, self.device = router, name
        router.run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", self.pid)
        router.run("ip", "link", "set", name, "up")
        self.run("ip", "link", "set", "eth0", "up")
        self.move_to(number)

    def move_to(self, number):
        """An address in another network, and the way out of it; the router is there too."""
        self.router.run("ip", "address", "add", f"10.113.{number}.1/24", "dev", self.device)
        self.address = f"10.113.{number}.2"
        self.run("ip", "address", "add", f"{self.address}/24", "dev", "eth0")
        self.run("ip", "route", "add", "default", "via", f"10.113.{number}.1")

    def own(self, network):
        """Every address of this network leads here too."""
        self.router.run("ip", "route", "add", network, "via", self.address)
        self.run("ip", "route", "add", "local", network, "dev", "lo")

    def leave(self):
        """The address is taken away, and with it the way out."""
        self.run("ip", "address", "flush", "dev", "eth0")


class Networks:
    """A router and its hosts, by their names."""

    def __init__(self, *names):
        self.router = Machine()
        # It passes on whatever comes, also what claims to be from elsewhere.
        settings = ["net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0"]
        self.router.run("sysctl", "-qw", *settings)
        self.hosts = {name: Host(self.router, name, number) for number, name in enumerate(names, 1)}

    def __getattr__(self, name):
        try:
            return self.__dict__["hosts"][name]
        except KeyError:
            raise AttributeError(name) from None

    def hide(self, host):
        """The router puts a new port of its own in place of each of this host's; `mappings` counts them."""
        rule = f"iifname {host.device} meta l4proto udp counter masquerade fully-random"
        _add_rule(self.router, "hiding", "type nat hook postrouting priority srcnat", rule)

    def mappings(self):
        words = self.router.run("nft", "list", "table", "inet", "hiding").split()
        return int(words[words.index("packets") + 1])

    def forget_flows(self):
        """The router's table of flows is emptied, as by `conntrack -F`: a message to delete, with no flow named."""
        with network_of(self.router):
            kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        with kernel:
            kernel.send(struct.pack("=IHHIIBBH", 20, CTNETLINK << 8 | DELETE, REQUEST_AND_ACK, 0, 0, 0, 0, 0))
            _, kind, _, _, _, code = struct.unpack_from("=IHHIIi", kernel.recv(4096))
            assert kind == ERROR and code == 0, f"the flows can't be deleted: {os.strerror(-code)}"

    def block_datagrams(self, machine, hook, verdict):
        _add_rule(machine, "block", f"type filter hook {hook} priority filter", f"meta l4proto udp {verdict}")

    def unblock(self, machine):
        machine.run("nft", "delete", "table", "inet", "block")

    def close(self):
        for machine in [*self.hosts.values(), self.router]:
            machine.close()


def _add_rule(machine, table, chain, rule):
    """A table of one chain with one rule."""
    name = f"inet {table}"
    machine.run("nft", f"add table {name}; add chain {name} one {{ {chain}; }}; add rule {name} one {rule}")


class DistantPair(Pair):
    """A pair whose sidecar is in one host's network and whose workspace is in another's; they use datagrams alone, or
    with `carriers` what that says, in order."""

    def __init__(self, *arguments, near, far, carriers=("udp",), **options):
        super().__init__(*arguments, **options)
        self.near, self.far, self.carriers = near, far, carriers
        self.tunnel = (far.address, TUNNEL)
        self.sidecar_arguments += ["--listen-udp", address(*self.tunnel)]

    def start_sidecar(self, **options):
        with network_of(self.far):
            return super().start_sidecar(**options)

    def start_workspace(self, **options):
        with network_of(self.near):
            return super().start_workspace(**options)

    def workspace_flags(self):
        flags = super().workspace_flags()
        at = flags.index("--sidecar")
        ways = [endpoint(self.sidecar_key.public, *self.tunnel, carrier=carrier) for carrier in self.carriers]
        return flags[:at] + [word for way in ways for word in ("--sidecar", way)] + flags[at + 2 :]

    def carriers_used(self):
        """The ways by which the tunnel went on, the last one last: by the ready line, and as the log told of each change."""
        lines = self.workspace.process.log().splitlines()
        changes = [line.rsplit("carrier=", 1)[1].split()[0] for line in lines if "the tunnel goes on" in line]
        return [self.workspace.ready["carrier"], *changes]

    def carrier(self):
        return self.carriers_used()[-1]
