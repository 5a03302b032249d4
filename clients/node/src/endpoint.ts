// SPDX-License-Identifier: Apache-2.0

/** Where the daemon is and how to prove who we are: addresses, tokens, and their defaults. */

import { accessSync, constants, statSync } from "node:fs";
import { open } from "node:fs/promises";
import { userInfo } from "node:os";
import { dirname, join } from "node:path";

import { SettingsError } from "./errors.js";
import { checkOwner, checkPlace } from "./owner.js";

const SOCKET_NAME = "callsd.sock";
const OWNER_TOKEN_NAME = "owner.token";
const SYSTEM_RUNTIME_DIRECTORY = "/run/callsd";

/** A token is some 50 characters; a file beyond this is a mistake, not a token. */
const MAX_TOKEN_FILE_BYTES = 4096;

/** Which daemon, and with what to prove who we are. */
export interface EndpointOptions {
    /**
     * `unix:/path`, `tcp:HOST:PORT` (this machine only) or `tls:HOST:PORT`. Default:
     * CALLSD_ADDRESS, else the socket of this user's or the system's daemon.
     */
    readonly address?: string | undefined;
    /**
     * File with the bearer token, read for each request, as tokens are renewed while clients run.
     * Default: CALLSD_TOKEN_FILE, else the owner's token beside the socket.
     */
    readonly tokenFile?: string | undefined;
    /** PEM file with the certificates to trust. Default: CALLSD_CA_FILE, else those of Node. */
    readonly caFile?: string | undefined;
    /** PEM file with a certificate of our own, for servers that ask for one; with `keyFile`. */
    readonly certFile?: string | undefined;
    /** PEM file with the key of `certFile`. */
    readonly keyFile?: string | undefined;
}

/** A daemon's address, with what is needed to talk to it. */
export class Endpoint {
    /** As given, or as found. */
    readonly address: string;
    readonly tokenFile: string | undefined;
    readonly caFile: string | undefined;
    readonly certFile: string | undefined;
    readonly keyFile: string | undefined;
    /** The socket's path, for `unix:`; empty otherwise. */
    readonly path: string = "";
    /** Name or IP address, for `tcp:` and `tls:`; "localhost" otherwise. */
    readonly host: string = "localhost";
    /** Port, for `tcp:` and `tls:`; 0 otherwise. */
    readonly port: number = 0;
    /** Whether the connection is encrypted. */
    readonly isSecure: boolean;
    /** A user whose socket is trusted beside our own, root's and the service's: CALLSD_SOCKET_OWNER. */
    readonly #socketOwner: string;
    /** Whether nobody has named the address: then nobody else may be able to make it either. */
    readonly #isDefault: boolean;

    /**
     * The endpoint given, completed from the environment and then from the usual places.
     *
     * @throws {SettingsError} The address is malformed, or a token would travel in the clear.
     */
    constructor(options: EndpointOptions = {}, environ: NodeJS.ProcessEnv = process.env) {
        const named = options.address || environ["CALLSD_ADDRESS"];
        this.address = named || defaultAddress(environ);
        this.#isDefault = !named;
        this.#socketOwner = environ["CALLSD_SOCKET_OWNER"] ?? "";
        const [scheme, rest] = split(this.address, this.address.indexOf(":"));
        this.tokenFile =
            options.tokenFile ||
            environ["CALLSD_TOKEN_FILE"] ||
            (scheme === "unix" ? ownerToken(rest) : undefined);
        this.caFile = options.caFile || environ["CALLSD_CA_FILE"] || undefined;
        this.certFile = options.certFile || undefined;
        this.keyFile = options.keyFile || undefined;
        this.isSecure = scheme === "tls" || (scheme === "tcp" && this.caFile !== undefined);
        if ((this.certFile === undefined) !== (this.keyFile === undefined)) {
            throw new SettingsError("certFile and keyFile go together: give both, or neither");
        }
        if (scheme === "unix") {
            if (!rest.startsWith("/")) {
                throw new SettingsError(
                    `${this.address}: a socket needs an absolute path (unix:/path)`,
                );
            }
            this.path = rest;
            return;
        }
        if (scheme !== "tcp" && scheme !== "tls") {
            throw new SettingsError(
                `${this.address}: expected unix:/path, tcp:HOST:PORT or tls:HOST:PORT`,
            );
        }
        const [host, port] = split(rest, rest.lastIndexOf(":"));
        if (!host || !/^\d{1,5}$/.test(port) || !(0 < Number(port) && Number(port) < 1 << 16)) {
            throw new SettingsError(
                `${this.address}: expected ${scheme}:HOST:PORT, such as ${scheme}:127.0.0.1:7411`,
            );
        }
        this.host = host.replace(/^\[(.*)\]$/, "$1");
        this.port = Number(port);
        if (!this.isSecure && !isLoopback(this.host)) {
            throw new SettingsError(
                `${this.address}: a token does not travel in the clear beyond this machine;` +
                    " use tls:HOST:PORT, with a CA file if the certificate is your own",
            );
        }
    }

    /** The address as requests name it. */
    get baseUrl(): string {
        const host = this.host.includes(":") ? `[${this.host}]` : this.host;
        const port = this.port ? `:${this.port}` : "";
        return `${this.isSecure ? "https" : "http"}://${host}${port}`;
    }

    /**
     * What each request carries: the bearer token, or nothing without a token file.
     *
     * @throws {SettingsError} The token file cannot be read or holds no token, or the socket is that
     *     of somebody whom a request is not for.
     */
    async headers(): Promise<Record<string, string>> {
        if (this.path && this.#isDefault) {
            checkPlace(dirname(this.path), this.#socketOwner);
        }
        if (this.path) {
            checkOwner(this.path, this.#socketOwner);
        }
        if (this.tokenFile === undefined) {
            return {};
        }
        const token = (await readStart(this.tokenFile)).trim();
        if (!/^[!-~]+$/.test(token)) {
            throw new SettingsError(`token file ${this.tokenFile}: it holds no token on one line`);
        }
        return { authorization: `Bearer ${token}` };
    }
}

/** Whether a host name or address means this machine. */
export function isLoopback(host: string): boolean {
    return host === "localhost" || host === "::1" || /^127\.\d{1,3}\.\d{1,3}\.\d{1,3}$/.test(host);
}

async function readStart(path: string): Promise<string> {
    try {
        await using file = await open(path);
        const { buffer, bytesRead } = await file.read(Buffer.alloc(MAX_TOKEN_FILE_BYTES));
        return buffer.toString("latin1", 0, bytesRead);
    } catch (error) {
        throw new SettingsError(`token file ${path}: ${(error as Error).message}`, {
            cause: error,
        });
    }
}

function split(text: string, at: number): [string, string] {
    return at < 0 ? ["", text] : [text.slice(0, at), text.slice(at + 1)];
}

/**
 * The socket of this user's daemon if there is one, else that of the system's, if it has one. That
 * one may be stopped, or closed to this user: the system call that finds out says so.
 */
function defaultAddress(environ: NodeJS.ProcessEnv): string {
    const own = join(runtimeDirectory(environ), SOCKET_NAME);
    const hasSystem = isAccessible(SYSTEM_RUNTIME_DIRECTORY, constants.F_OK);
    // Anyone may make directories under /tmp: only a socket of our own is our own daemon's.
    return `unix:${!isOwned(own) && hasSystem ? join(SYSTEM_RUNTIME_DIRECTORY, SOCKET_NAME) : own}`;
}

function runtimeDirectory(environ: NodeJS.ProcessEnv): string {
    if (process.geteuid?.() === 0) {
        return SYSTEM_RUNTIME_DIRECTORY;
    }
    const runtime = environ["XDG_RUNTIME_DIR"];
    return runtime ? join(runtime, "callsd") : `/tmp/callsd-${userInfo().username}`;
}

function isOwned(path: string): boolean {
    const found = statSync(path, { throwIfNoEntry: false });
    return found !== undefined && found.uid === process.geteuid?.();
}

function isAccessible(path: string, mode: number): boolean {
    try {
        accessSync(path, mode);
        return true;
    } catch {
        return false;
    }
}

/** The owner's token beside a socket, if we may read it. */
function ownerToken(socket: string): string | undefined {
    const path = join(dirname(socket), OWNER_TOKEN_NAME);
    return isAccessible(path, constants.R_OK) ? path : undefined;
}
