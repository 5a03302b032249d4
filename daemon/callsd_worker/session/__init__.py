# SPDX-License-Identifier: Apache-2.0
"""The worker's end of the corridor to the daemon; protobuf stops here."""
