# SPDX-License-Identifier: Apache-2.0
"""What callsd decides: job life cycle, admission, costs, errors. No clock, no I/O, no protobuf."""
