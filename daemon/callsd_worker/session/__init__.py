# SPDX-License-Identifier: Apache-2.0
"""The private API on the worker's side; protobuf is used nowhere else in the worker."""
