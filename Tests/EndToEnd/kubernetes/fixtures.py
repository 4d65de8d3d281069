"""Fixtures of the Kubernetes tests: a cluster, kubectl, and developers who use it."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from harness.cli import Developer
from harness.machine import needs_root
from harness.waiting import NotSeen

from .real import RealCluster
from .small import SmallCluster
from .team import RULES, Team


def kubectl_path():
    """The one that the tests' requirements pin, beside the Python that runs them."""
    beside = pathlib.Path(sys.executable).with_name("kubectl")
    found = beside if beside.exists() else shutil.which("kubectl")
    if not found:
        pytest.exit("kubectl isn't installed. Install it: agent/install", returncode=3)
    return pathlib.Path(found)


def kube_variables(kubeconfig, folder):
    """For a program that uses kubectl: which one, whose login, and where it may write."""
    path = f"{kubectl_path().parent}:{os.environ['PATH']}"
    return {"KUBECONFIG": str(kubeconfig), "KUBECACHEDIR": str(folder / "kube-cache"), "PATH": path}


class Kubectl:
    """kubectl with somebody's login."""

    def __init__(self, kubeconfig, folder):
        self.program = kubectl_path()
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("KL_", "XDG_", "KUBE"))}
        self.environment = {**kept, **kube_variables(kubeconfig, folder)}

    def begin(self, *arguments, **options):
        command = [self.program, *map(str, arguments)]
        usual = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, env=self.environment, **{**usual, **options})

    def run(self, *arguments, timeout=60, **options):
        """The ended command: returncode, stdout, stderr."""
        usual = {} if "input" in options else {"stdin": subprocess.DEVNULL}
        command = [self.program, *map(str, arguments)]
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=timeout, **{**usual, **options}
        )

    def ok(self, *arguments, **options):
        ran = self.run(*arguments, **options)
        if ran.returncode:
            raise NotSeen(f"kubectl {' '.join(map(str, arguments))} ended with {ran.returncode}:\n{ran.stdout}{ran.stderr}")
        return ran.stdout

    def raw(self, path):
        return self.ok("get", "--raw", path)


@pytest.fixture
def small_cluster(binaries, folder):
    """The small one, for what only it can do."""
    if os.environ.get("KL_TEST_KUBECONFIG"):
        pytest.skip("needs what only the small cluster can do")
    needs_root()
    cluster = SmallCluster(folder, binaries)
    yield cluster
    errors = cluster.nodes.errors + cluster.controllers.errors
    cluster.close()
    assert not errors, errors


@pytest.fixture
def cluster(request, folder):
    """The small one, or a namespace of the cluster that KL_TEST_KUBECONFIG names."""
    if not (kubeconfig := os.environ.get("KL_TEST_KUBECONFIG")):
        yield request.getfixturevalue("small_cluster")
        return
    cluster = RealCluster(kubeconfig, folder)
    yield cluster
    cluster.close()


@pytest.fixture
def make_kubectl(folder):
    """kubectl by somebody's kubeconfig."""
    return lambda kubeconfig: Kubectl(kubeconfig, folder)


@pytest.fixture
def kubectl(cluster, make_kubectl):
    """The administrator's."""
    return make_kubectl(cluster.kubeconfig)


@pytest.fixture
def join_cluster(binaries, folder, homes, cluster):
    """Makes developers of the cluster, connected, with an ordinary developer's rights."""
    made = []

    def make(name="dev", kubeconfig=None, rules=RULES, connect=True, **environment):
        kubeconfig = kubeconfig or cluster.user(name, rules)
        home = homes / f"home-{name}"
        developer = Developer(binaries, home, folder, **{**kube_variables(kubeconfig, home), **environment})
        made.append(developer)
        developer.kubeconfig = kubeconfig
        if connect:
            developer.ok("env", "connect", "--context", cluster.context, "--namespace", cluster.namespace)
        return developer

    yield make
    for developer in made:
        developer.end()


@pytest.fixture
def team(cluster, join_cluster, closing):
    return Team(cluster, join_cluster, closing)
