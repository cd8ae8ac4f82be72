// Testcontainers for Node, its reaper included: what a test suite does with it.

import assert from "node:assert/strict";
import { createRequire } from "node:module";

// the image of the reaper is made here: no registry
Object.assign(process.env, { RYUK_CONTAINER_IMAGE: "reaper:1", TESTCONTAINERS_HOST_OVERRIDE: "localhost" });

// the libraries are not beside the script
const load = createRequire(process.env.CLIENT_LIBRARIES + "/");
const Docker = load("dockerode");
const { GenericContainer, Network, Wait } = load("testcontainers");

const IMAGE = "busybox:test";
const docker = new Docker({ socketPath: process.env.DOCKER_HOST.replace("unix://", "") });

const saw = (step, value) => console.log(JSON.stringify([step, value]));

// Says that it has started, and acknowledges each line, as the reaper does.
async function reaper() {
  const said = 'while read -r line; do echo "$line" >> /heard; echo ACK; done';
  const script = `echo Started; exec nc -ll -p 8080 -e sh -c '${said}'`;
  const made = await docker.createContainer({ Image: IMAGE });
  await made.commit({ repo: "reaper", tag: "1", Cmd: ["sh", "-c", script], ExposedPorts: { "8080/tcp": {} } });
  await made.remove();
}

async function page(container) {
  const answer = await fetch(`http://${container.getHost()}:${container.getMappedPort(80)}/index.html`);
  return answer.text();
}

const server = () =>
  new GenericContainer(IMAGE)
    .withCommand(["sh", "-c", "echo serving; exec httpd -f -p 80 -h /www"])
    .withExposedPorts(80)
    .withCopyContentToContainer([{ content: "a page", target: "/www/index.html" }])
    .withStartupTimeout(30_000);

async function waits() {
  const check = { test: ["CMD", "test", "-e", "/www/index.html"], interval: 200, retries: 100, timeout: 5000, startPeriod: 0 };
  for (const [named, made] of Object.entries({
    port: server(),
    log: server().withWaitStrategy(Wait.forLogMessage("serving")),
    http: server().withWaitStrategy(Wait.forHttp("/index.html", 80)),
    command: server().withWaitStrategy(Wait.forSuccessfulCommand("test -e /www/index.html")),
    health: server().withHealthCheck(check).withWaitStrategy(Wait.forHealthCheck()),
  })) {
    const web = await made.start();
    assert.equal(await page(web), "a page", named);
    await web.stop();
  }
  const once = new GenericContainer(IMAGE).withCommand(["true"]).withWaitStrategy(Wait.forOneShotStartup());
  await (await once.start()).stop();
  const ends = new GenericContainer(IMAGE).withCommand(["false"]).withExposedPorts(80).withStartupTimeout(3000);
  await assert.rejects(ends.start());
}

// Two that know each other by name, with variables, a file, and a command in one of them.
async function together() {
  const network = await new Network().start();
  const web = await server().withNetwork(network).withNetworkAliases("web").start();
  const other = await new GenericContainer(IMAGE)
    .withCommand(["sleep", "100"])
    .withNetwork(network)
    .withEnvironment({ COLOUR: "blue" })
    .withTmpFs({ "/scratch": "rw,size=1m" })
    .withLabels({ mine: "yes" })
    .start();
  const got = await other.exec(["wget", "-qO-", "http://web/index.html"]);
  assert.deepEqual([got.exitCode, got.output], [0, "a page"]);
  assert.equal((await other.exec(["sh", "-c", "echo $COLOUR"])).output, "blue\n");
  assert.equal((await other.exec(["sh", "-c", "exit 7"])).exitCode, 7);
  await other.copyContentToContainer([{ content: "later", target: "/tmp/later" }]);
  assert.equal((await other.exec(["cat", "/tmp/later"])).output, "later");
  const lines = await web.logs();
  let said = "";
  for await (const line of lines) if ((said += line).includes("serving")) break;
  assert.equal(said.trim(), "serving");
  await web.restart();
  assert.equal(await page(web), "a page");
  saw("addresses", [web.getIpAddress(network.getName()) !== "", other.getLabels().mine]);
  const image = await other.commit({ repo: "suite", tag: "1" });
  await docker.getImage(image).remove({ force: true });
  await other.stop();
  await web.stop();
  await network.stop();
}

// Node ends in the middle where nothing is left to wait for, and a library of Testcontainers makes a success of it
setTimeout(() => assert.fail("something does not come"), 100_000);
await reaper();
await waits();
const [ryuk] = await docker.listContainers({ filters: { ancestor: ["reaper:1"] } });
const exec = await docker.getContainer(ryuk.Id).exec({ Cmd: ["grep", "-c", "session-id", "/heard"], AttachStdout: true });
const heard = await exec.start({});
assert.match(String(await heard.toArray()), /1\n/);
await together();
for (const left of await docker.listContainers({ all: true })) {
  // what did not start, and the reaper, which is a stand-in here
  await docker.getContainer(left.Id).remove({ force: true, v: true });
}
await docker.getImage("reaper:1").remove({ force: true });
saw("end", "");
process.exit(0);
