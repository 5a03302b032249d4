# SPDX-License-Identifier: Apache-2.0
"""`callsd bench recording` and `recording-end`, and the pages that are recorded."""
