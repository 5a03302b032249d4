# SPDX-License-Identifier: Apache-2.0
"""The performance tables, each with its baseline run beside it."""
