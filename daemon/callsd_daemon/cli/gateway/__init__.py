# SPDX-License-Identifier: Apache-2.0
"""`callsd gateway`."""
