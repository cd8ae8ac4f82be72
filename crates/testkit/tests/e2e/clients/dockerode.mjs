// dockerode: what its users do on a day.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { PassThrough } from "node:stream";

// the libraries are not beside the script
const Docker = createRequire(process.env.CLIENT_LIBRARIES + "/")("dockerode");

const IMAGE = "busybox:test";
const asked = process.env.CLIENT_API_VERSION;
const socketPath = process.env.DOCKER_HOST.replace("unix://", "");
const docker = new Docker({ socketPath, ...(asked && { version: `v${asked}` }) });

const saw = (step, value) => console.log(JSON.stringify([step, value]));

async function refused(step, status, call) {
  try {
    await call();
  } catch (error) {
    assert.ok(error.statusCode && error.message, `${step}: ${error}`);
    saw(step, error.statusCode);
    return status && assert.equal(error.statusCode, status, `${step}: ${error}`);
  }
  assert.fail(`${step}: nothing was refused`);
}

// Names of fields and kinds of values.
function shape(value) {
  if (Array.isArray(value)) return value.slice(0, 1).map(shape);
  if (value === null || typeof value !== "object") return value === null ? "null" : typeof value;
  return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, shape(v)]));
}

const bytes = async (stream) => {
  const all = [];
  for await (const chunk of stream) all.push(chunk);
  return Buffer.concat(all);
};
const text = async (stream) => String(await bytes(stream));

// Both streams of a multiplexed one, at its end.
async function apart(stream) {
  const [out, err] = [new PassThrough(), new PassThrough()];
  docker.modem.demuxStream(stream, out, err);
  await new Promise((done) => stream.on("end", done));
  out.end();
  err.end();
  return [await text(out), await text(err)];
}

const followed = (stream) =>
  new Promise((done, failed) => docker.modem.followProgress(stream, (e, all) => (e ? failed(e) : done(all))));

async function runs() {
  assert.equal(String(await docker.ping()), "OK");
  const [out, err] = [new PassThrough(), new PassThrough()];
  const script = ["sh", "-c", "echo out; echo err >&2; exit 3"];
  const [ended, container] = await docker.run(IMAGE, script, [out, err], { Tty: false });
  out.end();
  err.end();
  assert.deepEqual([ended.StatusCode, await text(out), await text(err)], [3, "out\n", "err\n"]);
  await container.remove();
  await refused("create: no such image", 404, () => docker.createContainer({ Image: "none:such" }));
  await refused("inspect: of nobody", 404, () => docker.getContainer("nobody").inspect());
}

async function container() {
  const made = await docker.createContainer({
    Image: IMAGE, name: "node", Cmd: ["sh", "-c", "read a; echo got $a; sleep 100"], OpenStdin: true, Tty: true,
    Labels: { a: "b" }, ExposedPorts: { "80/tcp": {} }, HostConfig: { PortBindings: { "80/tcp": [{ HostPort: "" }] } },
  });
  const attached = await made.attach({ stream: true, stdin: true, stdout: true, hijack: true });
  await made.start();
  await made.resize({ h: 20, w: 40 });
  attached.write("it\n");
  let seen = "";
  for await (const chunk of attached) if ((seen += chunk).includes("got it")) break;
  const shown = await made.inspect();
  assert.ok(shown.NetworkSettings.Ports["80/tcp"][0].HostPort, JSON.stringify(shown.NetworkSettings));
  await refused("start: a running one", 304, () => made.start());
  await refused("remove: a running one", 409, () => made.remove());
  const stats = await made.stats({ stream: false });
  assert.ok(stats.networks.eth0 && stats.memory_stats.usage > 0, JSON.stringify(stats));
  const top = await made.top({ ps_args: "-o pid,args" });
  assert.ok(top.Processes.length > 0);
  assert.deepEqual((await docker.listContainers({ filters: { label: ["a=b"] } })).map((c) => c.Names), [["/node"]]);

  const exec = await made.exec({ Cmd: ["sh", "-c", "cat; echo err >&2"], AttachStdin: true, AttachStdout: true, AttachStderr: true });
  const stream = await exec.start({ hijack: true, stdin: true });
  const both = apart(stream);
  stream.end("typed");
  assert.deepEqual(await both, ["typed", "err\n"]);
  const told = await exec.inspect();
  assert.equal(told.ExitCode, 0);
  saw("exec", shape(told));

  const events = await docker.getEvents({ filters: { container: ["node"] } });
  const heard = (async () => {
    let all = "";
    for await (const chunk of events) if ((all += chunk).includes("destroy")) break;
    return all.trim().split("\n").map((line) => JSON.parse(line).Action);
  })();
  const waiting = made.wait({ condition: "removed" });
  await made.stop({ t: 0 });
  const log = await made.logs({ stdout: true });
  assert.ok(String(log).includes("got it"), String(log));
  await made.remove();
  assert.equal((await waiting).StatusCode, 137);
  saw("events", (await heard).sort());
}

async function archives() {
  const made = await docker.createContainer({ Image: IMAGE, Cmd: ["cat", "/tmp/copy"], name: "files" });
  const tar = await bytes(await made.getArchive({ path: "/etc/passwd" }));
  await made.putArchive(tar, { path: "/tmp" });
  await made.start();
  assert.equal((await made.wait()).StatusCode, 1, "there is no copy under that name");
  assert.deepEqual((await made.changes()).filter((c) => c.Path === "/tmp/passwd"), [{ Path: "/tmp/passwd", Kind: 1 }]);
  await refused("archive: no such path", 404, () => made.getArchive({ path: "/nowhere" }));
  // an upload that is refused at once still gets its answer
  await refused("archive: into no directory", 404, () => made.putArchive(Buffer.alloc(1 << 20), { path: "/nowhere" }));
  const { Id } = await made.commit({ repo: "noded", tag: "1", changes: 'CMD ["true"]' });
  await made.remove();
  const image = docker.getImage("noded:1");
  assert.equal((await image.inspect()).Id, Id);
  const saved = await bytes(await image.get());
  saw("image: removed", (await image.remove()).map((line) => Object.keys(line)[0]));
  const loaded = await followed(await docker.loadImage(saved));
  assert.ok(JSON.stringify(loaded).includes("noded:1"), JSON.stringify(loaded));
  await image.tag({ repo: "other", tag: "2" });
  await docker.getImage("other:2").remove();
  await image.remove();
  await refused("image: no such", 404, () => image.inspect());
}

async function networksAndVolumes() {
  const network = await docker.createNetwork({ Name: "back", CheckDuplicate: true, IPAM: { Config: [{ Subnet: "10.81.0.0/24" }] } });
  const volume = await docker.createVolume({ Name: "kept", Labels: { a: "b" } });
  const made = await docker.createContainer({ Image: IMAGE, Cmd: ["sleep", "100"], HostConfig: { Binds: ["kept:/kept"] } });
  await network.connect({ Container: made.id, EndpointConfig: { Aliases: ["db"], IPAMConfig: { IPv4Address: "10.81.0.9" } } });
  await made.start();
  const members = Object.values((await network.inspect()).Containers);
  assert.deepEqual(members.map((m) => m.IPv4Address), ["10.81.0.9/24"]);
  await refused("network: remove one in use", 403, () => network.remove());
  await refused("volume: remove one in use", 409, () => docker.getVolume("kept").remove());
  await network.disconnect({ Container: made.id });
  await made.remove({ force: true, v: true });
  await network.remove();
  assert.deepEqual((await docker.listVolumes({ filters: { label: ["a"] } })).Volumes.map((v) => v.Name), ["kept"]);
  await docker.getVolume(volume.Name ?? "kept").remove();
  await refused("network: no such", 404, () => network.inspect());
  await refused("volume: no such", 404, () => docker.getVolume("kept").inspect());
}

// Node ends in the middle where nothing is left to wait for
setTimeout(() => assert.fail("something does not come"), 100_000);
await runs();
await container();
await archives();
await networksAndVolumes();
assert.deepEqual(await docker.listContainers({ all: true }), []);
saw("end", "");
process.exit(0);
