# SPDX-License-Identifier: Apache-2.0
"""The command `callsd`: a file for each command, or a folder where one is not enough.

In a folder, `command` is where the command begins. `shared` is for all of them.

It talks to a daemon as any other program does, by the client library. Only `serve`, and the
commands that work on files (`config`, `tokens`, `models --models-dir`), use rooms of the daemon.
"""
