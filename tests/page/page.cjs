// What the status page shows and how it is used, in a real Chromium. `tests/page/run` starts it.
"use strict";
const assert = require("node:assert/strict");
const { spawn } = require("node:child_process");
const path = require("node:path");
const { chromium } = require("playwright-core");

const FAKE = path.join(__dirname, "../../cli/tests/fake_bridge.py");
const INCOMPLETE = "20261121173800110002";
const arguments_ = Object.fromEntries(process.argv.slice(2).map((word, at, all) => [word, all[at + 1]]).filter(([word]) => word.startsWith("--")));

/** Starts the bridge of answers from files; the caller ends it. */
async function fakeBridge(...more) {
  const child = spawn("python3", [FAKE, "--live", ...more], { stdio: ["ignore", "pipe", "inherit"] });
  const url = await new Promise((found, failed) => {
    child.stdout.once("data", text => found(String(text).trim()));
    child.once("exit", code => failed(new Error(`the fake bridge ended with ${code}`)));
  });
  return { url, end: () => child.kill() };
}

/** A page whose every console error and failed script is noted. */
async function open(browser, url, options = {}) {
  const context = await browser.newContext({ viewport: { width: options.width ?? 1280, height: options.height ?? 900 }, colorScheme: options.scheme ?? "light" });
  const page = await context.newPage();
  page.setDefaultTimeout(10_000);
  page.errors = [];
  page.on("console", message => ["error", "warning"].includes(message.type()) && page.errors.push(message.text()));
  page.on("pageerror", error => page.errors.push(String(error)));
  await page.goto(`${url}/${options.hash ?? ""}`);
  if (!options.unheard) await page.waitForSelector("a.job");
  return page;
}

const tests = {
  async "sites show their state, lag and why they are down"({ browser, bridge }) {
    const page = await open(browser, bridge.url);
    const row = page.locator("#sites tbody tr", { hasText: "sgp1" });
    for (const told of ["down", "no sign of life", "0 of 3", "14, 3 min", "210, 1.4 MiB"]) assert.match(await row.innerText(), new RegExp(told));
    assert.match(await page.locator("#tiles").innerText(), /3 of 4/);
    assert.match(await page.title(), /1 down/);
    assert.deepEqual(page.errors, []);
  },

  async "jobs have a bar per site that says in words what it shows"({ browser, bridge }) {
    const page = await open(browser, bridge.url);
    const job = page.locator(`a.job[data-key="${INCOMPLETE}"]`);
    assert.match(await job.innerText(), /incomplete[\s\S]*test\.ping[\s\S]*7 of 11 back[\s\S]*4 missing/);
    const told = await job.locator(".bar").evaluateAll(bars => bars.map(bar => bar.getAttribute("aria-label")));
    assert.deepEqual(told, ["fra1: 3 returned", "nyc1: 3 returned", "sgp1: 3 missing", "ams-office-7.example.com: 1 returned, 1 missing"]);
    const widths = await job.locator(".bar i").evaluateAll(parts => parts.map(part => part.getBoundingClientRect().width));
    assert.ok(widths.every(width => width > 2), String(widths));
    assert.deepEqual(page.errors, []);
  },

  async "everything is done with the keyboard alone, and the focus survives a refresh"({ browser, bridge }) {
    const page = await open(browser, bridge.url);
    const focused = () => page.evaluate(() => document.activeElement.dataset.key ?? document.activeElement.tagName);
    await page.keyboard.press("ArrowDown");
    await page.keyboard.press("ArrowDown");
    assert.equal(await focused(), INCOMPLETE);
    await page.keyboard.press("Enter");
    await page.waitForSelector("#job .minions");
    await page.waitForFunction(() => document.activeElement.id === "job-title");
    assert.match(await page.locator("#job").innerText(), /sgp-app1/);
    for (const key of ["close", "verdict-", "verdict-unreachable", "verdict-not_received"]) {
      await page.keyboard.press("Tab");
      assert.equal(await focused(), key);
    }
    await page.keyboard.press("Space");
    await page.waitForFunction(() => !document.querySelector("#job").innerText.includes("sgp-app1"));
    assert.equal(await focused(), "verdict-not_received");
    const asked = page.waitForResponse(/status/);
    await asked;
    assert.equal(await focused(), "verdict-not_received");
    assert.match(await page.locator("#job").innerText(), /ams-pc2/);
    await page.keyboard.press("Escape");
    await page.waitForFunction(() => document.querySelector("#job").hidden);
    assert.equal(await focused(), INCOMPLETE);
    const ring = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
    assert.equal(ring, "solid");
    assert.deepEqual(page.errors, []);
  },

  async "each control is reached by Tab, in the order it is seen"({ browser, bridge }) {
    const page = await open(browser, bridge.url);
    const seen = [];
    for (let at = 0; at < 8; at += 1) {
      await page.keyboard.press("Tab");
      seen.push(await page.evaluate(() => document.activeElement.dataset.key));
    }
    assert.deepEqual(seen.slice(0, 5), ["state-all", "state-open", "state-complete", "state-incomplete", "state-expired"]);
    assert.equal(seen[5], "20261121174030110001");
  },

  async "a minion that has the job is told from one that gives no receipts"({ browser, bridge }) {
    const page = await open(browser, bridge.url, { hash: "#job/20261121174030110001" });
    await page.waitForSelector("#job .minions");
    const group = async name => (await page.locator(`#job h3:has-text("${name}") + ul`).innerText()).replace(/\s+/g, " ");
    assert.match(await group("running"), /nyc-db2 nyc1 14 ms nyc-db3 nyc1 812 ms/);
    assert.match(await group("no receipts"), /^ams-pc2 ams-office-7\.example\.com ?$/);
    assert.match(await page.locator("#job").innerText(), /2 without receipts/);
    const site = name => page.locator("#sites tbody tr", { hasText: name }).innerText();
    assert.match(await site("ams-office"), /32 of 31902\s+24 ms, 4\.3 s/);
    assert.doesNotMatch(await site("sgp1"), /undefined|NaN|null/);
    assert.deepEqual(page.errors, []);
  },

  async "jobs can be filtered by their state"({ browser, bridge }) {
    const page = await open(browser, bridge.url);
    await page.click('[data-key="state-expired"]');
    await page.waitForFunction(() => document.querySelectorAll("a.job").length === 1);
    assert.match(await page.locator("#jobs").innerText(), /service\.restart/);
    assert.equal(await page.locator('[aria-pressed="true"]').innerText(), "expired");
  },

  async "a job is linked to by its address"({ browser, bridge }) {
    const page = await open(browser, bridge.url, { hash: `#job/${INCOMPLETE}` });
    await page.waitForSelector("#job .minions");
    const unknown = await open(browser, bridge.url, { hash: "#job/20200101000000000000" });
    await unknown.waitForFunction(() => document.querySelector("#job").innerText.includes("no job"));
  },

  async "nothing is wider than a telephone"({ browser, bridge }) {
    for (const hash of ["", `#job/${INCOMPLETE}`]) {
      const page = await open(browser, bridge.url, { width: 390, height: 844, hash });
      if (hash) await page.waitForSelector("#job .minions");
      const wide = await page.evaluate(() => [...document.querySelectorAll("body *")].filter(element => {
        const box = element.getBoundingClientRect();
        return box.width > 0 && (box.right > innerWidth + 1 || box.left < -1) && getComputedStyle(element).position !== "absolute";
      }).map(element => element.outerHTML.slice(0, 120)));
      assert.deepEqual(wide, []);
      assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 390);
    }
  },

  async "text stands out from its ground in light and dark"({ browser, bridge }) {
    for (const scheme of ["light", "dark"]) {
      const page = await open(browser, bridge.url, { scheme, hash: `#job/${INCOMPLETE}` });
      await page.waitForSelector("#job .minions");
      const weak = await page.evaluate(faint);
      assert.deepEqual(weak, [], scheme);
    }
  },

  async "what somebody typed as target is text, not markup"({ browser, bridge }) {
    const page = await browser.newPage();
    await page.route("**/api/v1/jobs?*", async route => {
      const answer = await (await route.fetch()).json();
      answer.jobs[0].tgt = "<img src=x onerror=\"document.title='owned'\">";
      await route.fulfill({ json: answer });
    });
    await page.goto(bridge.url);
    await page.waitForSelector("a.job");
    assert.match(await page.locator("#jobs").innerText(), /<img src=x/);
    assert.doesNotMatch(await page.title(), /owned/);
  },

  async "a token is asked for where the bridge wants one"({ browser }) {
    const bridge = await fakeBridge("--token", "s3cret");
    try {
      const page = await browser.newPage();
      // The page itself holds nothing secret: the bridge gives it to everybody.
      await page.route(`${bridge.url}/`, async route => route.fulfill({ path: path.join(__dirname, "../../bridge/src/page/index.html"), contentType: "text/html" }));
      await page.goto(bridge.url);
      await page.fill("#token", "s3cret");
      await page.keyboard.press("Enter");
      await page.waitForSelector("a.job");
      assert.equal(await page.locator("#notice").innerText(), "");
    } finally { bridge.end(); }
  },

  async "a bridge that is away is named, and heard again by itself"({ browser, bridge }) {
    const page = await open(browser, bridge.url);
    await page.route("**/api/v1/**", route => route.abort());
    await page.waitForSelector('[role="alert"]');
    assert.match(await page.locator("#notice").innerText(), /does not answer/);
    await page.unroute("**/api/v1/**");
    await page.waitForFunction(() => !document.querySelector('[role="alert"]'));
  },
};

/** In the page: texts whose contrast is below 4.5 to 1 (WCAG AA). */
function faint() {
  const parse = color => color.match(/[\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
  const ground = element => {
    for (let at = element; at; at = at.parentElement) {
      const color = parse(getComputedStyle(at).backgroundColor);
      if (color.length < 4 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll("body *")].filter(element => [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim()))
    .filter(element => element.getClientRects().length && !["SCRIPT", "STYLE"].includes(element.tagName)).map(element => {
      const [a, b] = [light(parse(getComputedStyle(element).color)), light(ground(element))].sort((x, y) => y - x);
      return [(a + 0.05) / (b + 0.05), element.outerHTML.slice(0, 100)];
    }).filter(([contrast]) => contrast < 4.5);
}

async function pictures(browser, url, dir, job) {
  const hash = job ? `#job/${job}` : "";
  for (const [name, options] of Object.entries({
    "status-page": { scheme: "light", width: 1180, height: 806 },
    "wide-dark": { scheme: "dark", width: 1280, height: 900 },
    "job-light": { scheme: "light", width: 1280, height: 1200, hash },
    "job-dark": { scheme: "dark", width: 1280, height: 1200, hash },
    "narrow-light": { scheme: "light", width: 390, height: 844 },
    "narrow-job-dark": { scheme: "dark", width: 390, height: 844, hash },
  })) {
    const page = await open(browser, url, options);
    if (options.hash) await page.waitForSelector("#job .minions");
    await page.evaluate(() => { document.activeElement.blur(); scrollTo(0, 0); });
    await page.screenshot({ path: path.join(dir, `${name}.png`), fullPage: name !== "status-page" });
  }
}

async function main() {
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox", "--disable-gpu"] });
  let failed = 0;
  const url = arguments_["--url"];
  const bridge = url ? { url, end() {} } : await fakeBridge();
  try {
    for (const [name, test] of Object.entries(url ? {} : tests)) {
      try {
        await test({ browser, bridge });
        console.log(`ok    ${name}`);
      } catch (error) {
        failed += 1;
        console.log(`FAIL  ${name}\n${error.stack}`);
      }
    }
    if (arguments_["--pictures"]) await pictures(browser, bridge.url, arguments_["--pictures"], arguments_["--job"] ?? (url ? "" : INCOMPLETE));
  } finally {
    await browser.close();
    bridge.end();
  }
  if (!url) console.log(`page: ${Object.keys(tests).length - failed} passed, ${failed} failed`);
  process.exitCode = failed ? 1 : 0;
}

main();
