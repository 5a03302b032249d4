# SPDX-License-Identifier: Apache-2.0
"""The daemon's end of the corridor to its workers; protobuf stops here."""
