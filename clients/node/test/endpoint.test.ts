// SPDX-License-Identifier: Apache-2.0

import assert from "node:assert/strict";
import { chmod, chown, lchown, mkdir, mkdtemp, rename, rm, symlink, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test, type TestContext } from "node:test";

import { Client, Endpoint, SettingsError } from "@callsd/client";

import { checkOwner, checkPlace } from "../src/owner.js";

describe("addresses", () => {
    test("Each form of address is understood.", () => {
        const unix = new Endpoint({ address: "unix:/run/x.sock" }, {});
        const tcp = new Endpoint({ address: "tcp:127.0.0.1:7411" }, {});
        const six = new Endpoint({ address: "tcp:[::1]:7411" }, {});
        const tls = new Endpoint({ address: "tls:calls.example.com:443" }, {});

        assert.deepEqual([unix.path, unix.baseUrl], ["/run/x.sock", "http://localhost"]);
        assert.deepEqual(
            [tcp.host, tcp.port, tcp.baseUrl],
            ["127.0.0.1", 7411, "http://127.0.0.1:7411"],
        );
        assert.deepEqual([six.host, six.port, six.baseUrl], ["::1", 7411, "http://[::1]:7411"]);
        assert.deepEqual([tls.isSecure, tls.baseUrl], [true, "https://calls.example.com:443"]);
    });

    test("A malformed address is refused before anything is sent.", () => {
        for (const address of [
            ...[
                "unix:x.sock",
                "tcp:localhost",
                "tcp::7411",
                "tcp:localhost:0",
                "tcp:localhost:70000",
            ],
            ...["tls:host:port", "http://localhost:7411", "localhost", "tcp:127.0.0.1:7411x"],
        ]) {
            assert.throws(() => new Endpoint({ address }, {}), SettingsError, address);
        }
    });

    test("Plain TCP beyond this machine is refused, with the remedy.", () => {
        for (const host of [
            "192.0.2.1",
            "calls.example.com",
            "127.0.0.1.example.com",
            "[2001:db8::1]",
        ]) {
            assert.throws(() => new Client({ address: `tcp:${host}:7411` }), {
                name: "SettingsError",
                message: /use tls:HOST:PORT/,
            });
        }
    });

    test("With a certificate to trust, tcp: is encrypted, and so may leave the machine.", () => {
        const endpoint = new Endpoint({ address: "tcp:192.0.2.1:7411", caFile: "/x.pem" }, {});

        assert.equal(endpoint.baseUrl, "https://192.0.2.1:7411");
    });

    test("A certificate file that cannot be read is told when the client is made.", () => {
        const options = { address: "tls:localhost:1", caFile: "/nowhere/ca.pem" };

        assert.throws(() => new Client(options), {
            name: "SettingsError",
            message: /CA file \/nowhere/,
        });
    });

    test("A certificate without its key is a mistake that is told.", () => {
        assert.throws(
            () => new Client({ address: "tls:localhost:1", certFile: "/c.pem" }),
            /keyFile/,
        );
    });
});

describe("defaults", () => {
    test("The environment names address, token and certificates; what is given wins.", () => {
        const environ = {
            CALLSD_ADDRESS: "tls:calls.example.com:443",
            CALLSD_TOKEN_FILE: "/t",
            CALLSD_CA_FILE: "/c",
        };
        const found = new Endpoint({}, environ);
        const given = new Endpoint({ address: "unix:/x", tokenFile: "/u", caFile: "/d" }, environ);

        assert.deepEqual(
            [found.address, found.tokenFile, found.caFile],
            ["tls:calls.example.com:443", "/t", "/c"],
        );
        assert.deepEqual([given.address, given.tokenFile, given.caFile], ["unix:/x", "/u", "/d"]);
    });

    test("The owner's token lies beside the socket; without one, calls go without.", async (t) => {
        const directory = await mkdtemp(join(tmpdir(), "callsd-"));
        t.after(() => rm(directory, { recursive: true }));
        const address = `unix:${directory}/callsd.sock`;
        const before = new Endpoint({ address }, {});
        await writeFile(join(directory, "owner.token"), "callsd_secret\n");
        const after = new Endpoint({ address }, {});

        assert.deepEqual(await before.headers(), {});
        assert.deepEqual(await after.headers(), { authorization: "Bearer callsd_secret" });
    });

    test("Without an address, the client looks where this user's daemon listens.", () => {
        const isRoot = process.geteuid?.() === 0;
        const { address } = new Endpoint({}, { XDG_RUNTIME_DIR: "/nowhere/1000" });

        assert.ok(
            [
                "unix:/run/callsd/callsd.sock",
                ...(isRoot ? [] : ["unix:/nowhere/1000/callsd/callsd.sock"]),
            ].includes(address),
            address,
        );
    });
});

const STRANGER = 12_345;

/** A directory that nobody else may write in. */
async function near(t: TestContext): Promise<string> {
    const directory = await mkdtemp("/tmp/callsd-");
    t.after(() => rm(directory, { recursive: true }));
    return directory;
}

/** Whether only root can do what a test needs, and we are not. */
const skip = process.geteuid?.() !== 0 && "only root can make what is somebody else's";

describe("strangers", { skip }, () => {
    test("A call goes to no socket of a stranger; a user who is named is none.", async (t) => {
        const path = join(await near(t), "callsd.sock");
        const client = new Client({ address: `unix:${path}`, tokenFile: "/nowhere" });
        t.after(() => client.close());
        const server = createServer().listen(path);
        t.after(() => server.close());
        await chown(path, STRANGER, STRANGER);

        await assert.rejects(client.getJob("1"), {
            name: "SettingsError",
            message: /belongs to user 12345.*CALLSD_SOCKET_OWNER=12345/,
        });
        assert.throws(() => checkOwner(path, "nobody"), SettingsError);
        checkOwner(path, String(STRANGER));
        const environ = { CALLSD_SOCKET_OWNER: "nobody" };
        await chown(path, 65_534, 65_534);
        assert.deepEqual(await new Endpoint({ address: `unix:${path}` }, environ).headers(), {});
    });

    test("A default place that others may make or change is refused.", async (t) => {
        const folder = await near(t);
        const own = join(folder, "own");
        const place = join(own, "callsd");
        const isRefused = (message: string): void =>
            assert.throws(
                () => checkPlace(place, ""),
                (error: Error) => error instanceof SettingsError && error.message.includes(message),
                message,
            );
        checkPlace(place, "");
        await mkdir(place, { recursive: true });
        checkPlace(place, "");
        for (const path of [own, place]) {
            for (const mode of [0o777, 0o775]) {
                await chmod(path, mode);
                isRefused(`others may write in ${path}:`);
            }
            await chmod(path, 0o700);
            await chown(path, STRANGER, STRANGER);
            isRefused(`${path} belongs to user 12345:`);
            await chown(path, 0, 0);
        }
        checkPlace(place, "");
        await rename(place, join(folder, "real"));
        await chmod(own, 0o1777);
        isRefused("others may make it");
        await symlink(join(folder, "real"), place);
        checkPlace(place, "");
        await lchown(place, STRANGER, STRANGER);
        isRefused(`${place} belongs to user 12345:`);
    });
});
