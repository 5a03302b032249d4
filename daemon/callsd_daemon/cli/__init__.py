# SPDX-License-Identifier: Apache-2.0
"""The command `callsd`: one file for each command group.

It talks to a daemon as any other program does, by the client library. Only `serve`, and the
commands that work on files (`config`, `tokens`, `models --models-dir`), use rooms of the daemon.
"""
