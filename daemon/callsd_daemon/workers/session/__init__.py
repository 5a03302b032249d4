# SPDX-License-Identifier: Apache-2.0
"""The private API on the daemon's side; protobuf is used nowhere else in `workers`."""
