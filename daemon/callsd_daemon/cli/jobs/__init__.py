# SPDX-License-Identifier: Apache-2.0
"""`callsd jobs`, and jobs in words and in pictures for the other commands."""
