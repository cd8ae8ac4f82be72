"""Testcontainers for Python, its reaper included: what a test suite does with it."""

import os
import urllib.request
from pathlib import Path

# the image of the reaper is made here: no registry
os.environ.update(RYUK_CONTAINER_IMAGE="reaper:1", TESTCONTAINERS_HOST_OVERRIDE="localhost", TC_POOLING_INTERVAL="0.1")

import docker
from testcontainers.core.container import DockerContainer, Reaper
from testcontainers.core.exceptions import ContainerStartException
from testcontainers.core.network import Network
from testcontainers.core.wait_strategies import (
    ExecWaitStrategy,
    HealthcheckWaitStrategy,
    HttpWaitStrategy,
    LogMessageWaitStrategy,
    PortWaitStrategy,
)

from transcript import saw, shape

IMAGE = "busybox:test"
client = docker.from_env()


def reaper():
    """Says that it has started, and acknowledges each line, as the reaper does."""
    said = 'while read -r line; do echo "$line" >> /heard; echo ACK; done'
    script = f"echo \"$(date) Started!\"; exec nc -ll -p 8080 -e sh -c '{said}'"
    made = client.containers.create(IMAGE)
    made.commit("reaper", "1", conf={"Cmd": ["sh", "-c", script], "ExposedPorts": {"8080/tcp": {}}})
    made.remove()


def page(container):
    host, port = container.get_container_host_ip(), container.get_exposed_port(80)
    with urllib.request.urlopen(f"http://{host}:{port}/index.html", timeout=20) as answer:
        return answer.read()


def server():
    return (
        DockerContainer(IMAGE)
        .with_command("sh -c 'echo serving; exec httpd -f -p 80 -h /www'")
        .with_exposed_ports(80)
        .with_copy_into_container(b"a page", "/www/index.html")
    )


def waits():
    strategies = [
        HttpWaitStrategy(80, "/index.html").for_status_code(200),
        LogMessageWaitStrategy("serving"),
        PortWaitStrategy(80),
        ExecWaitStrategy(["test", "-e", "/www/index.html"]),
    ]
    for strategy in strategies:
        with server().waiting_for(strategy.with_startup_timeout(30)) as web:
            assert page(web) == b"a page", strategy
    check = {"test": ["CMD", "test", "-e", "/www/index.html"], "interval": 200_000_000}
    with server().with_kwargs(healthcheck=check).waiting_for(HealthcheckWaitStrategy()) as web:
        assert page(web) == b"a page"
    try:
        server().with_command("false").waiting_for(PortWaitStrategy(80).with_startup_timeout(1)).start()
    except (ContainerStartException, RuntimeError, TimeoutError) as e:
        saw("wait: for one that ends", type(e).__name__)


def together():
    """Two that know each other by name, with variables, a file of the host, and a command in one of them."""
    with Network() as network, server().with_network(network).with_network_aliases("web") as web:
        shown = DockerContainer(IMAGE).with_command("sleep 100").with_network(network).with_env("COLOUR", "blue")
        shown = shown.with_volume_mapping(Path(__file__), "/script", "ro").with_tmpfs_mount("/scratch", "size=1m")
        with shown as other:
            got = other.exec(["wget", "-qO-", "http://web/index.html"])
            assert (got.exit_code, got.output) == (0, b"a page"), got
            assert other.exec("sh -c 'echo $COLOUR'").output == b"blue\n"
            assert b"testcontainers" in other.exec("cat /script").output
            assert other.exec("sh -c 'echo x > /script'").exit_code != 0, "it is read-only"
            other.copy_into_container(b"later", "/tmp/later")
            there = Path(os.environ["DOCKER_CONFIG"]).with_name("later")
            other.copy_from_container("/tmp/later", there)
            assert there.read_bytes() == b"later"
            there.unlink()
        out, err = web.get_logs()
        assert (out, err) == (b"serving\n", b""), (out, err)
        info = web.get_container_info()
        assert info.State.Running and info.Config.Image == IMAGE, info
        labels = web.get_wrapped_container().labels
        saw("labels", shape({k: v for k, v in labels.items()}))


reaper()
waits()
heard = Reaper._container.exec("cat /heard").output
assert b"label=org.testcontainers.session-id=" in heard, heard
together()
Reaper.delete_instance()
for left in client.containers.list(all=True, ignore_removed=True):
    assert "testcontainers" not in left.name, left.name
    # one whose start was not waited out is the reaper's, which is a stand-in here
    left.remove(force=True)
client.images.remove("reaper:1", force=True)
saw("end", "")
