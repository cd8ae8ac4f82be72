"""docker-py: what its users do on a day."""

import io
import os
import tarfile
import time

import docker
from docker.errors import APIError, ContainerError, ImageLoadError, ImageNotFound, NotFound
from docker.types import EndpointConfig, Healthcheck, IPAMConfig, IPAMPool, LogConfig, Mount, Ulimit

from transcript import refused, saw, shape

IMAGE = "busybox:test"
client = docker.from_env(version=os.environ.get("CLIENT_API_VERSION", "auto"))


def until(what, probe):
    end = time.monotonic() + 20
    while not (found := probe()):
        assert time.monotonic() < end, f"{what} does not come"
        time.sleep(0.02)
    return found


def ran(image, command, output, **more):
    made = client.containers.run(image, command, detach=True, **more)
    assert made.wait()["StatusCode"] == 0, made.logs()
    # old dockerds have the end before the output
    until(f"{output} in place of {made.logs()}", lambda: made.logs() == output)
    made.remove()


def archive(**files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(text), 0o640, 1_700_000_000
            tar.addfile(entry, io.BytesIO(text))
    return out.getvalue()


def system():
    assert client.ping() is True
    saw("version", shape(client.version() | {"Components": []}))
    saw("info", dict.fromkeys(client.info(), ""))
    saw("df", shape(client.df() | {"BuildCache": []}))
    refused("login", APIError, lambda: client.login("a", "b", registry="127.0.0.1:1"))


def drivers():
    """dockerd looks 15 s for the plug-in of each, so it is not asked."""
    driver = "none-such"
    logged = client.api.create_host_config(log_config=LogConfig(type=driver))
    refused("volume: a driver that is none", NotFound, lambda: client.volumes.create("x", driver=driver))
    refused("network: a driver that is none", NotFound, lambda: client.networks.create("x", driver=driver))
    refused("log: a driver that is none", APIError, lambda: client.api.create_container(IMAGE, host_config=logged))


def runs():
    ran(IMAGE, "echo hello", b"hello\n")
    both = client.containers.run(IMAGE, ["sh", "-c", "echo out; echo err >&2"], remove=True, stderr=True)
    assert sorted(both.splitlines()) == [b"err", b"out"], both
    lines = client.containers.run(IMAGE, ["sh", "-c", "echo a; echo b"], stream=True, remove=True)
    assert b"".join(lines) == b"a\nb\n"
    refused("run: exit 3", ContainerError, lambda: client.containers.run(IMAGE, ["sh", "-c", "exit 3"], remove=True))
    refused("run: no such program", APIError, lambda: client.containers.run(IMAGE, "no-such", name="never"))
    client.containers.get("never").remove()
    refused("create: no such image", ImageNotFound, lambda: client.api.create_container("none:such", "true"))
    for what, options in {
        "memory": {"mem_limit": "1k"},
        "network": {"network": "nowhere"},
        "capability": {"cap_add": ["FLY"]},
        "user": {"user": "nobody-knows"},
        "name": {"name": "a name"},
    }.items():
        def wrong():
            made = client.containers.create(IMAGE, "true", **options)
            try:
                made.start()
            finally:
                made.remove(force=True)
        refused(f"create: a wrong {what}", APIError, wrong)


def options():
    """All that is asked is shown again, and reaches the process."""
    script = "echo $COLOUR $(hostname) $(id -u) $(pwd); ulimit -n; cat /data/f; sleep 100"
    client.volumes.create("kept")
    web = client.containers.run(
        IMAGE, ["sh", "-c", script], detach=True, name="web", hostname="inner", environment={"COLOUR": "blue"},
        labels={"tier": "1"}, ports={"80/tcp": None, "53/udp": ("127.0.0.1", 5353)}, working_dir="/tmp", user="user",
        mem_limit="64m", nano_cpus=500_000_000, pids_limit=50, ulimits=[Ulimit(name="nofile", soft=99, hard=100)],
        cap_drop=["NET_RAW"], extra_hosts={"elsewhere": "192.0.2.1"}, tmpfs={"/scratch": "size=1m"}, init=True,
        mounts=[Mount("/data", "kept")], restart_policy={"Name": "on-failure", "MaximumRetryCount": 2},
        healthcheck=Healthcheck(test=["CMD", "true"], interval=1_000_000_000), stop_signal="SIGKILL",
        log_config=LogConfig(type="json-file", config={"max-size": "1m"}), shm_size="8m", dns=["192.0.2.53"],
    )
    logs = until("its first lines", lambda: b"99" in web.logs() and web.logs(stderr=False))
    assert logs.splitlines() == [b"blue inner 1000 /tmp", b"99"], logs
    until("health", lambda: web.reload() or web.health == "healthy")
    assert set(web.ports) == {"80/tcp", "53/udp"} and web.ports["53/udp"][0]["HostPort"] == "5353", web.ports
    attrs = dict(web.attrs)
    for volatile in ("Id", "Created", "Path", "Args", "GraphDriver", "Image"):
        attrs.pop(volatile)
    saw("inspect", shape({**attrs, "HostConfig": None, "NetworkSettings": None}))
    saw("inspect: HostConfig", attrs["HostConfig"])
    saw("inspect: NetworkSettings", shape(attrs["NetworkSettings"] | {"Ports": {}}))
    saw("inspect: Config", {**attrs["Config"], "Hostname": ""})
    saw("list", shape(client.api.containers(filters={"name": "web"}) [0] | {"Ports": []}))
    for filters in ({"label": "tier=1"}, {"status": "running"}, {"ancestor": IMAGE}, {"volume": "kept"}):
        assert [c.name for c in client.containers.list(filters=filters)] == ["web"], filters
    refused("list: a filter that is none", APIError, lambda: client.containers.list(filters={"x": "y"}))
    return web


def logs(web):
    until("its complaint", lambda: b"/data/f" in web.logs(stdout=False))
    assert len(web.logs(tail=2).splitlines()) == 2
    assert web.logs(stdout=False).count(b"\n") == 1
    stamped = web.logs(timestamps=True, stderr=False).splitlines()[0]
    assert stamped.startswith(b"20") and stamped.endswith(b" blue inner 1000 /tmp"), stamped
    assert web.logs(since=int(time.time()) + 100) == b""
    first = next(web.logs(stream=True, follow=True))
    assert first, "a followed log begins with what there is"


def execs(web):
    assert web.exec_run("echo hello") == (0, b"hello\n")
    assert web.exec_run(["sh", "-c", "exit 7"]).exit_code == 7
    assert web.exec_run(["sh", "-c", "echo out; echo err >&2"], demux=True).output == (b"out\n", b"err\n")
    shown = web.exec_run("sh -c 'echo $A $(id -u) $(pwd)'", environment={"A": "1"}, user="root", workdir="/etc")
    assert shown.output == b"1 0 /etc\n", shown
    assert web.exec_run("tty", tty=True).output.startswith(b"/dev/pts/")
    assert b"".join(web.exec_run("echo a", stream=True).output) == b"a\n"
    missing = web.exec_run("no-such-program")
    saw("exec: no such program", missing.exit_code)
    _, sock = web.exec_run("cat", stdin=True, socket=True)
    sock._sock.sendall(b"through\n")
    assert sock.read(16)[8:] == b"through\n"
    sock.close()
    # a terminal whose reader takes frames
    exec_id = client.api.exec_create(web.id, ["echo", "hello"], tty=True)["Id"]
    assert client.api.exec_start(exec_id) == b"hello\r\n"
    seen = client.api.exec_inspect(exec_id)
    saw("exec: inspect", shape({**seen, "ExitCode": 0}))
    assert seen["ExitCode"] == 0 and not seen["Running"]
    refused("exec: of nobody", NotFound, lambda: client.api.exec_start("0" * 64))
    refused("exec: nothing", APIError, lambda: client.api.exec_create(web.id, []))


def changes(web):
    titles = web.top()["Titles"]
    saw("top", titles)
    assert any("sleep 100" in line for line in sum(web.top(ps_args="-o pid,args")["Processes"], []))
    once = web.stats(stream=False)
    assert once["networks"]["eth0"]["rx_bytes"] >= 0
    saw("stats", dict.fromkeys(once, ""))
    streamed = next(web.stats(decode=True))
    assert streamed["memory_stats"]["limit"] == 64 << 20, streamed["memory_stats"]
    web.pause()
    assert client.containers.get("web").status == "paused"
    refused("exec: in a paused one", APIError, lambda: web.exec_run("true"))
    web.unpause()
    web.update(mem_limit="96m", memswap_limit="-1")
    web.rename("renamed")
    web.reload()
    assert (web.name, web.attrs["HostConfig"]["Memory"]) == ("renamed", 96 << 20)
    refused("remove: a running one", APIError, web.remove)
    refused("create: a name that is taken", APIError, lambda: client.containers.create(IMAGE, name="renamed"))
    web.restart(timeout=0)
    assert client.containers.get("renamed").status == "running"
    web.kill("KILL")
    assert web.wait(condition="not-running")["StatusCode"] == 137
    refused("kill: one that does not run", APIError, web.kill)
    refused("pause: one that does not run", APIError, web.pause)


def archives(web):
    assert web.put_archive("/tmp", archive(given=b"some text"))
    chunks, stat = web.get_archive("/tmp/given")
    saw("archive: stat", {k: v for k, v in stat.items() if k != "mtime"})
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as tar:
        assert tar.extractfile("given").read() == b"some text"
    assert {"Path": "/tmp/given", "Kind": 1} in web.diff()
    assert client.containers.create(IMAGE, name="fresh").diff() is None
    client.containers.get("fresh").remove()
    refused("archive: no such path", NotFound, lambda: web.get_archive("/nowhere"))
    refused("archive: into no directory", NotFound, lambda: web.put_archive("/nowhere", archive(a=b"")))
    refused("archive: into a file", APIError, lambda: web.put_archive("/etc/passwd", archive(a=b"")))
    refused("archive: of nobody", NotFound, lambda: client.api.put_archive("nobody", "/", archive(a=b"")))
    refused("archive: not a tar", APIError, lambda: web.put_archive("/tmp", b"x" * 2000))
    names = tarfile.open(fileobj=io.BytesIO(b"".join(web.export()))).getnames()
    assert "tmp/given" in names and "etc/passwd" in names, names[:9]


def attachments():
    made = client.containers.create(IMAGE, "cat", stdin_open=True, name="cat")
    sock = made.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
    made.start()
    sock._sock.sendall(b"typed\n")
    assert sock.read(14)[8:] == b"typed\n"
    sock.close()
    until("what was said", lambda: made.logs() == b"typed\n")
    made.resize(20, 40)
    made.remove(force=True)
    shell = client.containers.create(IMAGE, ["sh", "-c", "stty size; read a; echo got $a"], tty=True, stdin_open=True)
    sock = shell.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
    shell.start()
    shell.resize(20, 40)
    sock._sock.sendall(b"it\n")
    said = b"".join(iter(lambda: sock.read(100), b""))
    assert said.endswith(b"got it\r\n"), said
    shell.remove()


def images(web):
    image = web.commit("made", "1", message="m", author="a", changes="ENV MADE=1", conf={"Labels": {"of": "commit"}})
    assert "MADE=1" in image.attrs["Config"]["Env"] and image.labels == {"of": "commit", "tier": "1"}, image.attrs["Config"]
    saw("image", shape({**image.attrs, "Config": {}, "ContainerConfig": {}, "GraphDriver": {}}))
    saw("image: list", shape(client.api.images("made")[0]))
    ran("made:1", "cat /tmp/given", b"some text", user="0")
    assert image.tag("other", "2") and set(client.images.get("other:2").tags) == {"made:1", "other:2"}
    saw("image: history", shape(image.history()[0]))
    saved = b"".join(image.save(named="made:1"))
    client.images.remove("made:1")
    refused("image: no such", ImageNotFound, lambda: client.images.get("made:1"))
    assert [i.id for i in client.images.load(saved)] == [image.id]
    refused("image: load of no archive", ImageLoadError, lambda: client.images.load(b"abc"))
    kept = client.containers.create("made:1", "true")
    refused("image: remove one in use", APIError, lambda: client.images.remove(image.id))
    kept.remove()
    client.images.remove("other:2")
    client.images.remove("made:1")
    rootfs = b"".join(web.export())
    imported = client.api.import_image_from_data(rootfs, repository="flat", tag="1", changes=["CMD [\"true\"]"])
    assert "sha256:" in imported, imported
    ran("flat:1", "cat /tmp/given", b"some text")
    client.images.remove("flat:1")
    refused("image: a name that is none", APIError, lambda: client.images.get("Not A Name"))
    refused("image: tag with a name that is none", APIError, lambda: client.images.get(IMAGE).tag("Not A Name"))
    refused("image: pull from nowhere", APIError, lambda: client.images.pull("127.0.0.1:1/none", tag="1"))
    assert client.images.prune(filters={"dangling": True})["SpaceReclaimed"] >= 0


def networks():
    pool = IPAMPool(subnet="10.79.0.0/24", gateway="10.79.0.254")
    made = client.networks.create("back", ipam=IPAMConfig(pool_configs=[pool]), labels={"a": "b"}, internal=True)
    saw("network", {k: v for k, v in made.attrs.items() if k not in ("Id", "Created")})
    refused("network: a name that is taken", APIError, lambda: client.networks.create("back", check_duplicate=True))
    first = client.containers.run(
        IMAGE, "sleep 100", detach=True, network="back", name="first", mac_address="02:00:00:00:00:09",
        networking_config={"back": EndpointConfig(client.api._version, aliases=["db"], ipv4_address="10.79.0.7")},
    )
    second = client.containers.run(IMAGE, "sleep 100", detach=True, name="second")
    made.connect(second, aliases=["app"])
    assert second.exec_run("ping -c1 -W5 db").exit_code == 0
    assert first.exec_run("ping -c1 -W5 app").exit_code == 0
    made.reload()
    assert sorted(c.name for c in made.containers) == ["first", "second"]
    saw("network: its containers", shape(list(made.attrs["Containers"].values())[0]))
    first.reload()
    endpoint = first.attrs["NetworkSettings"]["Networks"]["back"]
    assert (endpoint["IPAddress"], endpoint["MacAddress"]) == ("10.79.0.7", "02:00:00:00:00:09"), endpoint
    saw("network: a gateway of an internal one", endpoint["Gateway"])
    refused("network: connect twice", APIError, lambda: made.connect(second))
    refused("network: remove one in use", APIError, made.remove)
    made.disconnect(second)
    refused("network: disconnect twice", APIError, lambda: made.disconnect(second))
    first.remove(force=True)
    second.remove(force=True)
    made.remove()
    refused("network: no such", NotFound, lambda: client.networks.get("back"))
    refused("network: remove a predefined one", APIError, lambda: client.networks.get("bridge").remove())
    client.networks.create("idle")
    assert "idle" in client.networks.prune()["NetworksDeleted"]


def volumes():
    made = client.volumes.create("data", labels={"a": "b"})
    saw("volume", {k: v for k, v in made.attrs.items() if k not in ("CreatedAt", "Mountpoint")})
    assert client.volumes.create("data").name == "data"
    assert [v.name for v in client.volumes.list(filters={"label": "a"})] == ["data"]
    user = client.containers.create(IMAGE, "true", volumes={"data": {"bind": "/d", "mode": "ro"}})
    refused("volume: remove one in use", APIError, made.remove)
    refused("volume: a name that is none", APIError, lambda: client.volumes.create("a/b"))
    user.remove()
    made.remove()
    refused("volume: no such", NotFound, lambda: client.volumes.get("data"))


def events():
    since = time.time()
    told = client.events(decode=True, filters={"label": "watched"})
    seen = client.containers.create(IMAGE, "sleep 100", labels={"watched": ""}, name="seen")
    seen.start()
    seen.exec_run("true")
    seen.kill()
    seen.wait()
    seen.remove()
    actions = []
    while "destroy" not in actions:
        event = next(told)
        actions.append(event["Action"].split(":")[0])
    told.close()
    saw("events", sorted(actions))
    replayed = client.events(since=since, until=time.time(), decode=True, filters={"container": "seen"})
    assert sorted(e["Action"].split(":")[0] for e in replayed) == sorted(actions)
    saw("event", shape(event))
    auto = client.containers.run(IMAGE, "true", auto_remove=True, detach=True)
    until("its removal", lambda: not [c for c in client.containers.list(all=True, ignore_removed=True) if c.id == auto.id])
    refused("container: no such", NotFound, lambda: client.containers.get(auto.id))
    refused("container: logs of nobody", NotFound, lambda: client.api.logs("nobody"))
    refused("swarm: not in one", APIError, lambda: client.services.list())
    assert client.plugins.list() == []
    refused("plugin: no such", NotFound, lambda: client.plugins.get("none"))


system()
if "CLIENT_API_VERSION" not in os.environ:
    drivers()
runs()
web = options()
logs(web)
execs(web)
changes(web)
archives(web)
attachments()
images(web)
web.remove(v=True)
client.volumes.get("kept").remove()
networks()
volumes()
events()
assert client.containers.list(all=True) == []
saw("end", "")
