# SPDX-License-Identifier: Apache-2.0
"""The public API: protobuf ⇄ domain. Errors become gRPC status in `interceptor`, and only there."""
