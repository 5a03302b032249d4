// SPDX-License-Identifier: Apache-2.0

/**
 * Whose a socket is: a token and a call's sound are for our own daemon, root's and the service's.
 *
 * Anyone may make a socket somewhere, and the name of a daemon that is stopped may be free for all.
 */

import { lstatSync, readFileSync, realpathSync, type Stats, statSync } from "node:fs";
import { dirname } from "node:path";

import { SettingsError } from "./errors.js";

/** Whom the installed service runs as. */
const SERVICE_USER = "callsd";

const USERS_FILE = "/etc/passwd";

/**
 * Refuse a socket of somebody else; one that is not there is nobody's.
 *
 * @param friend Name or number of one more user who is trusted, or empty.
 * @throws {SettingsError} It is a stranger's; with what to do.
 */
export function checkOwner(socket: string, friend: string): void {
    const found = look(statSync, socket);
    if (typeof found === "object" && !isTrusted(found.uid, friend)) {
        throw new SettingsError(
            `${socket} belongs to user ${found.uid}, not to you, root or ${SERVICE_USER}: nothing is` +
                " sent there. Start the daemon or name its address; if it is the daemon that you" +
                ` mean, say so by CALLSD_SOCKET_OWNER=${found.uid}`,
        );
    }
}

/**
 * Refuse a directory that somebody else may put there, or put something else in its place.
 *
 * @throws {SettingsError} It is open to strangers; with what to do.
 */
export function checkPlace(directory: string, friend: string): void {
    const problem = problemOf(directory, friend) || problemOf(real(directory), friend);
    if (problem) {
        throw new SettingsError(
            `${problem}: nothing is sent to a socket there. Start the daemon, or name its address` +
                " (CALLSD_ADDRESS)",
        );
    }
}

/** What is wrong with a directory or one of those above it. */
function problemOf(directory: string, friend: string): string {
    let missing = "";
    for (let path = directory, below = ""; path !== below; below = path, path = dirname(path)) {
        const found = look(lstatSync, path);
        if (found === "ENOENT") {
            missing = path;
            continue;
        }
        if (typeof found === "string") {
            return `${path} cannot be looked at (${found})`;
        }
        if (!isTrusted(found.uid, friend)) {
            return `${path} belongs to user ${found.uid}`;
        }
        if (found.isDirectory() && found.mode & 0o022) {
            if (missing) {
                return `there is no ${missing}, and others may make it`;
            }
            // In a directory like /tmp others' files cannot be moved or removed.
            if (!(found.mode & 0o1000)) {
                return `others may write in ${path}`;
            }
        }
        missing = "";
    }
    return "";
}

/** A file's state, or the code of the error. */
function look(stat: (path: string) => Stats, path: string): Stats | string {
    try {
        return stat(path);
    } catch (error) {
        return (error as NodeJS.ErrnoException).code ?? "unknown error";
    }
}

function real(path: string): string {
    try {
        return realpathSync(path);
    } catch {
        return path;
    }
}

function isTrusted(owner: number, friend: string): boolean {
    // Windows has neither owners nor daemons; who is named by number needs no look at the users.
    if (process.geteuid === undefined || [process.geteuid(), 0].includes(owner)) {
        return true;
    }
    return String(owner) === friend || namesOf(owner).some((n) => n === SERVICE_USER || n === friend);
}

/** The names that this machine has for a user. */
function namesOf(owner: number): string[] {
    let users: string;
    try {
        users = readFileSync(USERS_FILE, "utf8");
    } catch {
        return [];
    }
    const fields = users.split("\n").map((line) => line.split(":"));
    return fields.filter((one) => one[2] === String(owner)).map((one) => one[0]!);
}
