// SPDX-License-Identifier: Apache-2.0

/** How connections are made: sockets, encryption, keepalive, limits. */

import { readFileSync } from "node:fs";
import type { ClientHttp2Stream } from "node:http2";
import { connect, isIP, type Socket } from "node:net";
import { connect as connectTls, type ConnectionOptions } from "node:tls";

import type { Transport } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";

import type { Endpoint } from "./endpoint.js";
import { SettingsError } from "./errors.js";

/** A dead peer is noticed after 40 s. The server accepts a ping every 10 s. */
const KEEPALIVE_MS = 30_000;
const KEEPALIVE_TIMEOUT_MS = 10_000;

/** How long a connection may take to come about, encryption included. */
const CONNECT_TIMEOUT_MS = 10_000;

/** The server sends at most 256 KiB a message; the rest is room for a page of large jobs. */
const MAX_RECEIVE_BYTES = 16 << 20;

/**
 * What a stream may hold unread. Downloads over a long way need much: no more than this is under
 * way at a time. On a connection for watches little lets the server notice who reads slowly.
 */
export const DOWNLOAD_WINDOW_BYTES = 4 << 20;
export const WATCH_WINDOW_BYTES = 64 << 10;

/** A connection to one daemon, made with the first request and again whenever it is lost. */
export interface Connection {
    readonly transport: Transport;
    /** Disconnect; every open request ends. */
    readonly close: () => void;
}

/**
 * Prepare to connect.
 *
 * A stream that nobody reads holds up only itself: Node lets go of a connection's window at once,
 * and of a stream's when it is read.
 *
 * @throws {SettingsError} A certificate file cannot be read.
 */
export function openConnection(endpoint: Endpoint, windowBytes: number): Connection {
    if (endpoint.isSecure) {
        tlsOptions(endpoint); // to tell of a wrong file now, not with the first request
    }
    const sockets = new Set<Socket>();
    const createConnection = (): Socket => {
        const socket = dial(endpoint);
        sockets.add(socket);
        return socket.once("close", () => sockets.delete(socket));
    };
    const sessionManager = new Sessions(endpoint.baseUrl, windowBytes, createConnection);
    const transport = createGrpcTransport({
        baseUrl: endpoint.baseUrl,
        sessionManager,
        acceptCompression: [],
        readMaxBytes: MAX_RECEIVE_BYTES,
    });
    // Not sessionManager.abort(), by which the server is told of an error, and notes it in its log.
    return { transport, close: () => sockets.forEach((socket) => socket.destroy()) };
}

/** Keeps a connection; does what the transport leaves undone. */
class Sessions extends Http2SessionManager {
    readonly #windowBytes: number;

    constructor(baseUrl: string, windowBytes: number, createConnection: () => Socket) {
        super(
            baseUrl,
            { pingIntervalMs: KEEPALIVE_MS, pingTimeoutMs: KEEPALIVE_TIMEOUT_MS },
            { createConnection, settings: { initialWindowSize: windowBytes } },
        );
        this.#windowBytes = windowBytes;
    }

    override async request(
        ...request: Parameters<Http2SessionManager["request"]>
    ): Promise<ClientHttp2Stream> {
        const stream = await super.request(...request);
        // The settings are of streams; the connection's own window is as large only if it is told.
        const { session } = stream;
        if (session && (session.state.effectiveLocalWindowSize ?? Infinity) < this.#windowBytes) {
            session.setLocalWindowSize(this.#windowBytes);
        }
        // The transport waits for ever for the headers of a stream that was closed before they came
        // and without an error code, as by a server or a proxy that hangs up: that is an error.
        let isAnswered = false;
        stream.once("response", () => (isAnswered = true));
        stream.once("close", () => {
            if (!isAnswered && !stream.rstCode) {
                stream.emit("error", new Error("the connection was closed before an answer"));
            }
        });
        return stream;
    }
}

function dial(endpoint: Endpoint): Socket {
    const socket = endpoint.isSecure
        ? connectTls(tlsOptions(endpoint))
        : connect(
              endpoint.path
                  ? { path: endpoint.path }
                  : { host: endpoint.host, port: endpoint.port },
          );
    const timer = setTimeout(() => {
        const error = new Error(`no connection within ${CONNECT_TIMEOUT_MS / 1000} s`);
        socket.destroy(Object.assign(error, { code: "ETIMEDOUT" }));
    }, CONNECT_TIMEOUT_MS);
    const connected = endpoint.isSecure ? "secureConnect" : "connect";
    for (const event of [connected, "close"]) {
        socket.once(event, () => clearTimeout(timer));
    }
    return socket;
}

/** Read for each connection, as certificates are renewed while clients run. */
function tlsOptions(endpoint: Endpoint): ConnectionOptions {
    const { host, port, caFile, certFile, keyFile } = endpoint;
    return {
        host,
        port,
        ALPNProtocols: ["h2"],
        // A server's name is checked against its certificate either way; an IP address is no SNI.
        ...(isIP(host) ? {} : { servername: host }),
        ...(caFile && { ca: read("CA", caFile) }),
        ...(certFile && { cert: read("certificate", certFile) }),
        ...(keyFile && { key: read("key", keyFile) }),
    };
}

function read(what: string, path: string): Buffer {
    try {
        return readFileSync(path);
    } catch (error) {
        throw new SettingsError(`${what} file ${path}: ${(error as Error).message}`, {
            cause: error,
        });
    }
}
