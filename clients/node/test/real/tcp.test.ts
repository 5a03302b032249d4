// SPDX-License-Identifier: Apache-2.0

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:net";
import { join } from "node:path";
import { describe, test } from "node:test";

import { Client, UnavailableError } from "@callsd/client";
import { ROOT, startDaemon } from "../daemon.js";

const TLS = join(ROOT, "tests", "rpc", "tls");
/** Of localhost and 127.0.0.1, signed by itself. */
const CERTIFICATE = join(TLS, "cert.pem");
const KEY = join(TLS, "key.pem");
const ENCRYPTED = { tls_certificate: CERTIFICATE, tls_key: KEY };

/** A port that nobody listens on now. */
async function freePort(): Promise<number> {
    const server = createServer().listen(0, "127.0.0.1");
    await once(server, "listening");
    const { port } = server.address() as { port: number };
    server.close();
    await once(server, "close");
    return port;
}

describe("a real daemon over TCP", { timeout: 60_000 }, () => {
    test("On this machine it needs no encryption.", async (t) => {
        const port = await freePort();
        const daemon = await startDaemon({ port });
        t.after(() => daemon.close());
        for (const host of ["127.0.0.1", "localhost"]) {
            using client = new Client({
                address: `tcp:${host}:${port}`,
                tokenFile: daemon.tokenFile,
            });

            assert.ok((await client.getServerInfo()).version);
        }
    });

    test("With the certificate to trust a client gets in, by name and by number; else not.", async (t) => {
        const port = await freePort();
        const daemon = await startDaemon({ port, config: { server: ENCRYPTED } });
        t.after(() => daemon.close());
        const { tokenFile } = daemon;
        for (const address of [
            `tls:localhost:${port}`,
            `tls:127.0.0.1:${port}`,
            `tcp:127.0.0.1:${port}`,
        ]) {
            using client = new Client({ address, tokenFile, caFile: CERTIFICATE });

            assert.ok((await client.getServerInfo()).version);
        }
        for (const address of [`tls:localhost:${port}`, `tcp:localhost:${port}`]) {
            using stranger = new Client({ address, tokenFile });

            await assert.rejects(stranger.getServerInfo(), UnavailableError);
        }
    });

    test("Where the server asks for a certificate, a client that has one gets in.", async (t) => {
        const port = await freePort();
        const server = { ...ENCRYPTED, tls_client_ca: CERTIFICATE };
        const daemon = await startDaemon({ port, config: { server } });
        t.after(() => daemon.close());
        const options = {
            ...{
                address: `tls:localhost:${port}`,
                tokenFile: daemon.tokenFile,
                caFile: CERTIFICATE,
            },
        };
        using known = new Client({ ...options, certFile: CERTIFICATE, keyFile: KEY });
        using unknown = new Client(options);

        assert.ok((await known.getServerInfo()).version);
        await assert.rejects(unknown.getServerInfo(), UnavailableError);
    });
});
