# SPDX-License-Identifier: Apache-2.0
"""What can be asked of callsd, whichever way it is asked: no protobuf, no gRPC, no HTTP.

A server for clients, such as `rpc`, finds out who asks and translates; all else is decided here.
"""
