# SPDX-License-Identifier: Apache-2.0
"""The HTTP gateway: what Mattermost's Calls plugin takes for its job service."""
